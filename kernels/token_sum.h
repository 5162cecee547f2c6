// Sums over tokens, which is what every parameter's gradient is: where the terms go, and how rows
// are grouped into terms.
#pragma once

#include <atomic>

#include "core/base/fixed_point.h"
#include "core/base/tensor.h"

namespace rwkv {

// Rows are tokens, sequence after sequence. A leaf is tokens [m leaf, (m + 1) leaf) of one
// sequence: under `parallel.reduction: exact` every term of a sum over tokens and every call of a
// product has the rows of one leaf, so that its bits do not depend on what else the pass holds.
struct Leaves {
  int64_t tokens = 0;  // of a sequence
  int64_t leaf = 0;    // 0: all rows are one leaf, whatever sequences they belong to
  int64_t first = 0;   // place of row 0 in its sequence, a multiple of `leaf`

  // The row behind the leaf that row r of `rows` belongs to.
  int64_t end(int64_t r, int64_t rows) const {
    if (leaf == 0) return rows;
    const int64_t at = (first + r) % tokens;
    return std::min(rows, r + std::min(leaf - at % leaf, tokens - at));
  }
  // Leaves of as many rows as the one at row r, which follow one another from there on.
  int64_t alike(int64_t r, int64_t rows) const {
    const int64_t size = end(r, rows) - r;
    int64_t count = 1;
    for (int64_t next = r + size; next < rows && end(next, rows) == next + size; next += size) {
      ++count;
    }
    return count;
  }
};

// The gradient of one parameter. `sum` is f32 or f64: a leaf's partial is added as it is. Or i64:
// fixed point (core/base/fixed_point.h).
struct TokenSum {
  Tensor sum;        // the parameter's shape; accumulated
  Tensor peak;       // i64 sum: (1) i64, magnitude_bits() of the largest partial so far
  double scale = 0;  // i64 sum: a power of two; 0: none yet, only `peak` is of use

  TokenSum() = default;
  TokenSum(const Tensor& floats) : sum(floats) {}  // NOLINT(google-explicit-constructor)
  TokenSum(const Tensor& fixed, const Tensor& largest, double unit)
      : sum(fixed), peak(largest), scale(unit) {}

  bool empty() const { return sum.empty(); }
  bool fixed() const { return sum.dtype == DType::kI64; }
};

// Threads share a peak.
inline void raise_peak(const TokenSum& to, int64_t bits) {
  std::atomic_ref<int64_t> peak(*to.peak.as<int64_t>());
  int64_t seen = peak.load(std::memory_order_relaxed);
  while (bits > seen && !peak.compare_exchange_weak(seen, bits, std::memory_order_relaxed)) {
  }
}

}  // namespace rwkv
