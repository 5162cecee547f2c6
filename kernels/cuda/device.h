// What a kernel is written with. A kernel is a struct: its fields are its arguments, its call
// operator is what each thread does. device_backend.h is the machine under it: the GPU
// (kernels/cuda/native) or a host emulator (tests/support/emulator), so that the same code is
// compiled for both.
//
// device_backend.h defines, in namespace rwkv::device (what each is: kernels/cuda/native):
//   RWKV_DEVICE, RWKV_UNROLL          marks of a function that runs in a kernel, of a loop
//   block_index(), block_count()      of a one-dimensional grid, int64_t
//   thread_index(), thread_count()    of a block, int
//   launch(stream, LaunchShape, kernel)
//   sync_block(), sync_team(team)     all threads of the block must come; of two teams of 128
//   threads
//                                     in a block one team's own
//   sync_warp(), warp_xor(value, mask), warp_xor_bits, warp_read, warp_ballot
//                                     among the 32 threads of a warp: all must come
//   shared_memory()                   the block's own bytes
//   copy_async, end_copy_group, wait_copies
//                                     16 bytes at a time from the device's memory to the block's
//                                     own
//   load_matrices, load_matrices_transposed, transpose_matrix, mma_bf16
//                                     8 x 8 matrices of bf16 in a warp's registers, and their
//                                     product
//   to_fp16, from_fp16, pack_bf16     16-bit floats, to nearest, ties to even
//   fast_exp2(x), fast_inverse(x)     2^x and 1/x to a few units in the last place
//   raise_max(to, value)              the larger of two integers, whatever the order of threads
//   opaque(value)                     of which the compiler knows nothing more
//   scratch(stream, bytes), room(stream), multiprocessors(), block_shared_bytes()
//                                     for the host: memory behind a stream, what the device has
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>

#include <device_backend.h>
#include "core/base/error.h"
#include "core/base/stream.h"
#include "core/base/tensor.h"

namespace rwkv::cuda {

using device::block_index;
using device::LaunchShape;
using device::thread_index;

inline constexpr int kWarp = 32;
inline constexpr int kThreads = 128;  // of a block, where nothing else decides
inline constexpr double kDecayScale = 0.60653065971263342;  // e^-1/2

// 16-bit floats in memory: bits alone, so that host and device round alike.
struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

RWKV_DEVICE float bits_to_float(uint32_t bits) {
  union {
    uint32_t u;
    float f;
  } x{bits};
  return x.f;
}
RWKV_DEVICE uint32_t float_to_bits(float value) {
  union {
    float f;
    uint32_t u;
  } x{value};
  return x.u;
}

RWKV_DEVICE float load(const float* p) { return *p; }
RWKV_DEVICE float load(const Bf16* p) {
  return bits_to_float(static_cast<uint32_t>(p->bits) << 16);
}
RWKV_DEVICE void store(float* p, float value) { *p = value; }
// To nearest, ties to even; NaN stays NaN.
RWKV_DEVICE void store(Bf16* p, float value) {
  p->bits = static_cast<uint16_t>(device::pack_bf16(value, 0));
}

RWKV_DEVICE float load(const Fp16* p) { return device::from_fp16(p->bits); }
RWKV_DEVICE void store(Fp16* p, float value) { p->bits = device::to_fp16(value); }

// Two 16-bit floats of a word, the one at the lower address first.
template <class T>
RWKV_DEVICE float first_of(uint32_t pair) {
  if constexpr (std::is_same_v<T, Bf16>) return bits_to_float(pair << 16);
  return device::from_fp16(static_cast<uint16_t>(pair & 0xffffu));
}
template <class T>
RWKV_DEVICE float second_of(uint32_t pair) {
  if constexpr (std::is_same_v<T, Bf16>) return bits_to_float(pair & 0xffff0000u);
  return device::from_fp16(static_cast<uint16_t>(pair >> 16));
}
template <class T>
RWKV_DEVICE uint32_t pair_of(float first, float second) {
  if constexpr (std::is_same_v<T, Bf16>) return device::pack_bf16(first, second);
  return device::to_fp16(first) | static_cast<uint32_t>(device::to_fp16(second)) << 16;
}

// K elements that follow one another, in one access; K is a power of two, and p a multiple of it.
// 16-bit floats stay in pairs until they are unpacked: to take one out is to wait for memory.
template <class T, int K>
struct alignas(sizeof(T) * K) Run {
  T element[K];
};
template <class T, int K>
requires(sizeof(T) == 2 && K % 2 == 0) struct alignas(sizeof(T) * K) Run<T, K> {
  uint32_t pair[K / 2];
};
template <int K, class T>
RWKV_DEVICE Run<T, K> raw_run(const T* p) {
  return *reinterpret_cast<const Run<T, K>*>(p);
}
template <class T, int K>
RWKV_DEVICE void unpack(const Run<T, K>& run, float (&x)[K]) {
  for (int i = 0; i < K; ++i) {
    if constexpr (sizeof(T) == 2 && K % 2 == 0) {
      x[i] = i % 2 == 0 ? first_of<T>(run.pair[i / 2]) : second_of<T>(run.pair[i / 2]);
    } else {
      x[i] = load(run.element + i);
    }
  }
}
template <class T, int K>
RWKV_DEVICE void load_run(const T* p, float (&x)[K]) {
  unpack(raw_run<K>(p), x);
}
template <class T, int K>
RWKV_DEVICE void store_run(T* p, const float (&x)[K]) {
  Run<T, K> run;
  if constexpr (sizeof(T) == 2 && K % 2 == 0) {
    for (int i = 0; i < K / 2; ++i) run.pair[i] = pair_of<T>(x[2 * i], x[2 * i + 1]);
  } else {
    for (int i = 0; i < K; ++i) store(run.element + i, x[i]);
  }
  *reinterpret_cast<Run<T, K>*>(p) = run;
}

struct alignas(8) Floats2 {
  float x[2];
};

// Of a thread in its warp, and of its warp in the block.
// Unsigned division: what follows from a lane needs no care for its sign.
RWKV_DEVICE int lane_index() {
  return static_cast<int>(static_cast<unsigned>(thread_index()) % kWarp);
}
RWKV_DEVICE int warp_index() {
  return static_cast<int>(static_cast<unsigned>(thread_index()) / kWarp);
}

// The sum over a warp, on each of its threads, in a fixed order.
// Over kLanes neighbours of a warp; all of its threads must come.
template <int kLanes = kWarp>
RWKV_DEVICE float warp_sum(float value) {
  for (int mask = kLanes / 2; mask > 0; mask /= 2) value += device::warp_xor(value, mask);
  return value;
}
RWKV_DEVICE float warp_max(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = device::warp_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// Of a few units in the last place.
inline constexpr float kLog2E = 1.44269504f;
RWKV_DEVICE float fast_exp(float x) { return device::fast_exp2(kLog2E * x); }
RWKV_DEVICE float sigmoid(float x) {
  return device::fast_inverse(1 + device::fast_exp2(-kLog2E * x));
}
// exp(-e^-1/2 sigmoid(w_raw)), in (0.545, 1). With expf: near 1 an error of a few units would be
// that of many tokens' decay together.
RWKV_DEVICE float decay_of(float w_raw) {
  return expf(-static_cast<float>(kDecayScale) * sigmoid(w_raw));
}

// Elements of a tensor as a kernel reads them; nullptr where it is empty.
template <class T>
const T* in(const ConstTensor& t) {
  return reinterpret_cast<const T*>(t.data);
}
template <class T>
T* out(const Tensor& t) {
  return reinterpret_cast<T*>(t.data);
}

// Of the kernels that have one version per head size.
inline void check_head_size(int64_t n) {
  if (n == 16 || n == 32 || n == 64 || n == 128) return;
  throw InputError("model.head_size " + std::to_string(n) +
                   ": the CUDA kernels have 16, 32, 64 and 128");
}

// element(i) for every i in [0, count).
template <class F>
struct ForEach {
  int64_t count;
  F element;

  RWKV_DEVICE void operator()() const {
    const int64_t i = block_index() * device::thread_count() + thread_index();
    if (i < count) element(i);
  }
};

template <class F>
void for_each(const Stream& stream, int64_t count, const F& element) {
  if (count == 0) return;
  device::launch(stream, {(count + kThreads - 1) / kThreads, kThreads, 0},
                 ForEach<F>{count, element});
}

// Elements of a 16-byte access.
template <class T>
inline constexpr int kRunOf = static_cast<int>(16 / sizeof(T));
// Whether all of a tensor can be read and written so.
template <class Byte>
bool in_whole_runs(const View<Byte>& t) {
  return t.bytes() % 16 == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
}

// Calls F<float>, F<Bf16> or F<Fp16> by the type of an activation.
template <template <class> class F, class Op>
void by_type(DType type, const Stream& stream, const Op& op) {
  if (type == DType::kF32) return F<float>::run(stream, op);
  if (type == DType::kBF16) return F<Bf16>::run(stream, op);
  if (type == DType::kF16) return F<Fp16>::run(stream, op);
  throw Error("internal: the CUDA kernels compute in f32, bf16 and f16, not " +
              std::string(name_of(type)));
}

}  // namespace rwkv::cuda
