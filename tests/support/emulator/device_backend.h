// The host under kernels/cuda/device.h: a block's threads are fibers that take turns, blocks follow
// one another. A barrier or a shuffle that not all threads reach is an error; between two barriers
// threads run in an order that changes with the seed, so that what depends on it shows. Races
// inside hardware, its speed and its memory's limits do not show here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/base/error.h"
#include "core/base/stream.h"

#define RWKV_DEVICE inline

namespace rwkv::device {

struct LaunchShape {
  int64_t blocks = 0;
  int threads = 0;
  int64_t shared_bytes = 0;
};

int64_t block_index();
int64_t block_count();
int thread_index();
int thread_count();
void sync_block();
float warp_xor(float value, int mask);
std::byte* shared_memory();
// A buffer of the emulator's own, filled with what nobody may count on.
std::byte* scratch(const Stream&, int64_t bytes);
inline void raise_max(int64_t* to, int64_t value) {
  if (value > *to) *to = value;
}

// Runs `thread` as every thread of every block. Not to be called from a kernel.
void run_grid(const LaunchShape&, const std::function<void()>& thread);

// The order in which threads take turns, from the next launch on.
void shuffle_threads(uint64_t seed);

template <class Kernel>
void launch(const Stream&, const LaunchShape& shape, const Kernel& kernel) {
  run_grid(shape, [&] { kernel(); });
}

}  // namespace rwkv::device
