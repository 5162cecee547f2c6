// The host under kernels/cuda/device.h: a block's threads are fibers that take turns, blocks follow
// one another. A barrier or a shuffle that not all threads reach is an error; between two barriers
// threads run in an order that changes with the seed, some warps far ahead of others, so that what
// depends on it shows. Races inside hardware, its speed and its memory's limits do not show here.
#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/base/dtype.h"
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
void sync_team(int team);
float warp_xor(float value, int mask);
std::byte* shared_memory();
// A buffer of the emulator's own, filled with what nobody may count on.
std::byte* scratch(const Stream&, int64_t bytes);
inline uint16_t to_fp16(float x) { return fp16(x).bits; }
inline float from_fp16(uint16_t bits) {
  fp16 x;
  x.bits = bits;
  return static_cast<float>(x);
}
int64_t room(const Stream&);
int64_t multiprocessors();
int64_t block_shared_bytes();
inline constexpr bool kMuchSharedMemory = true, kThreeTeamBlocks = true;
inline constexpr int64_t kLeastHeldVocab = 256;  // so that small ones are held too
inline constexpr int64_t kLeastPiece = 32;       // so that short sequences are cut too
inline constexpr int64_t kLeafRoom = 16 << 10;   // so that small weights are cut too
inline void raise_max(int64_t* to, int64_t value) {
  const std::atomic_ref<int64_t> shared(*to);
  int64_t now = shared.load(std::memory_order_relaxed);
  while (value > now && !shared.compare_exchange_weak(now, value, std::memory_order_relaxed)) {
  }
}

// Runs `thread` as every thread of every block. Not to be called from a kernel.
void run_grid(const LaunchShape&, const std::function<void()>& thread);

// The order in which threads take turns, from the next launch on.
void shuffle_threads(uint64_t seed);
// What multiprocessors(), block_shared_bytes() and room() say, on this thread of the process.
struct DeviceSize {
  int64_t multiprocessors = 16, block_shared_bytes = int64_t{227} << 10, room = int64_t{64} << 20;
};
DeviceSize& device_size();

template <class Kernel>
void launch(const Stream&, const LaunchShape& shape, const Kernel& kernel) {
  if constexpr (requires { requires(Kernel::kMostThreads > 0); }) {
    require(shape.threads <= Kernel::kMostThreads,
            "a block has no more threads than its kernel says");
  }
  run_grid(shape, [&] { kernel(); });
}

}  // namespace rwkv::device

#define RWKV_UNROLL

// kernels/cuda/native/device_backend.h says what each of these is.

namespace rwkv::device {

// What a thread shows to its warp.
struct Shown {
  uint32_t words[8];
};
// All threads of the warp show something; what they showed, by lane, until two meetings later.
// orders: what each did in memory before is there for the others after it, as after sync_warp().
const Shown* meet(const Shown& mine, bool orders = false);

template <class T>
T opaque(T value) {
  return value;
}
void sync_warp();
float warp_read(float value, int lane);
uint32_t warp_ballot(bool vote);
uint32_t warp_xor_bits(uint32_t value, int mask);

inline float fast_exp2(float x) { return std::exp2(x); }
inline float fast_inverse(float x) { return 1.0f / x; }
inline uint32_t pack_bf16(float low, float high) {
  return bf16(low).bits | static_cast<uint32_t>(bf16(high).bits) << 16;
}

void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void load_matrices(const std::byte* matrix, int row, uint32_t (&x)[4]);
uint32_t transpose_matrix(uint32_t x);
void load_matrices_transposed(const std::byte* matrix, int row, uint32_t (&x)[4]);

// Until a thread has waited, what it copies is not there, nor what was there before.
void copy_async(std::byte* to, const std::byte* from, bool there);
void end_copy_group();
void wait_for_copies(size_t newer);
template <int newer>
void wait_copies() {
  wait_for_copies(newer);
}

}  // namespace rwkv::device
