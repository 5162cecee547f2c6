// What the kernels of one instruction set share: conversions, row loops, elementary functions that
// the compiler can turn into vector code, and an explicit 16-lane vector for the recurrence.
//
// The functions here are always inlined: this file is compiled once per instruction set, and a copy
// left out of line could be the one the linker keeps for all of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/base/dtype.h"
#include "core/base/stream.h"

namespace rwkv::cpu::RWKV_ISA {

[[gnu::always_inline]] inline float load(const float& x) { return x; }
[[gnu::always_inline]] inline float load(const bf16& x) { return static_cast<float>(x); }
[[gnu::always_inline]] inline void store(float& to, float x) { to = x; }
[[gnu::always_inline]] inline void store(bf16& to, float x) { to = bf16(x); }

// Calls body(begin, end) over [0, count) in blocks of `block`, the blocks shared out to threads.
// Block edges depend on the number of threads only where `block` does (channels_a_thread).
template <class Body>
[[gnu::always_inline]] inline void for_blocks(const Stream& stream, int64_t count, int64_t block,
                                              const Body& body) {
  const int64_t blocks = (count + block - 1) / block;
#pragma omp parallel for schedule(static) num_threads(stream.threads) if (stream.threads > 1)
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = i * block;
    body(begin, begin + block < count ? begin + block : count);
  }
}

inline constexpr int64_t kRowBlock = 32;     // rows of element-wise work a call
inline constexpr int64_t kColumnBlock = 64;  // channels of a row that stay in cache together

// Channels that a thread takes, all rows one after the other, where a parameter's gradient is
// summed over tokens: memory is three times as fast in long pieces of rows as in short ones. A
// channel's sum does not depend on who takes which. Multiples of `unit`, and of no more than
// kMostChannels.
inline constexpr int64_t kMostChannels = 2048;
[[gnu::always_inline]] inline int64_t channels_a_thread(const Stream& stream, int64_t width,
                                                        int64_t unit = kColumnBlock) {
  const int64_t units = (width + unit - 1) / unit, most = kMostChannels / unit;
  const int64_t share = (units + stream.threads - 1) / stream.threads;
  return (share < most ? share : most) * unit;
}

// e^x to about 1 ulp: x = n ln 2 + f, |f| <= ln 2 / 2, polynomial of degree 6 (Cephes' coefficients
// of expf). Below -87 the result is 0, above 88 it is the largest power that fits.
[[gnu::always_inline]] inline float exp_fast(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float shifted = clamped * 1.44269504088896341f + 12582912.0f;  // rounds to an integer
  const float n = shifted - 12582912.0f;
  const float f = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  const int32_t power = (bits - 0x4b400000 + 127) << 23;
  float scale;
  std::memcpy(&scale, &power, 4);
  return x < -87.0f ? 0.0f : p * scale;
}

[[gnu::always_inline]] inline float sigmoid(float x) { return 1.0f / (1.0f + exp_fast(-x)); }

// tanh to about 2 ulp: a polynomial near zero (Cephes' tanhf), else from e^2|x|.
[[gnu::always_inline]] inline float tanh_fast(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near_zero = p * z * x + x;
  const float far = 1.0f - 2.0f / (exp_fast(2.0f * magnitude) + 1.0f);
  return magnitude < 0.625f ? near_zero : (x < 0 ? -far : far);
}

// 16 floats; the compiler splits them where registers are narrower.
typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));

[[gnu::always_inline]] inline float lane_sum(const v16& x) {
  v8 half[2];
  std::memcpy(half, &x, 64);
  const v8 eight = half[0] + half[1];
  v4 quarter[2];
  std::memcpy(quarter, &eight, 32);
  const v4 four = quarter[0] + quarter[1];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

}  // namespace rwkv::cpu::RWKV_ISA
