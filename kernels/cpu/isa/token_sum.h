// Where leaf partials are added: float sums, or fixed point.
#pragma once

#include <cstring>

#include "kernels/cpu/isa/vector.h"
#include "kernels/token_sum.h"

namespace rwkv::cpu::RWKV_ISA {

// n partials into elements [at, at + n). The type of a partial is float, or bf16 where rows are
// terms.
template <class T>
[[gnu::always_inline]] inline void add_partials(const TokenSum& to, int64_t at, const T* partial,
                                                int64_t n) {
  if (!to.fixed()) {
    float* sum = to.sum.as<float>() + at;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) sum[i] += load(partial[i]);
    return;
  }
  int64_t* sum = to.sum.as<int64_t>() + at;
  const double scale = to.scale;
  int32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const float p = load(partial[i]);
    const int32_t bits = std::bit_cast<int32_t>(p) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
    sum[i] = static_cast<int64_t>(static_cast<uint64_t>(sum[i]) +
                                  to_fixed(static_cast<double>(p), scale));
  }
  raise_peak(to, magnitude_bits(static_cast<double>(std::bit_cast<float>(largest))));
}

// A block of a weight's gradient: `rows` rows of `columns` partials; `stride` elements from row to
// row in the sum.
inline void add_block(const TokenSum& to, int64_t at, int64_t stride, const float* partial,
                      int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    add_partials(to, at + r * stride, partial + r * columns, columns);
  }
}

}  // namespace rwkv::cpu::RWKV_ISA
