// Sums over tokens: the gradient of a parameter, leaf by leaf (kernels/token_sum.h).
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/token_sum.h"

namespace rwkv::cuda {

// Leaves as a kernel reads them.
struct LeafRows {
  int64_t tokens, leaf, first, rows;

  LeafRows(const Leaves& leaves, int64_t all)
      : tokens(leaves.tokens), leaf(leaves.leaf), first(leaves.first), rows(all) {}
  RWKV_DEVICE int64_t end(int64_t r) const {
    if (leaf == 0) return rows;
    const int64_t at = (first + r) % tokens;
    const int64_t in_leaf = leaf - at % leaf, in_sequence = tokens - at;
    const int64_t next = r + (in_leaf < in_sequence ? in_leaf : in_sequence);
    return next < rows ? next : rows;
  }
};

// Where partials go. Fixed point adds integers: any order gives the same bits, so threads may meet
// there; floats are added by one thread an element.
struct PartialSum {
  float* floats;
  int64_t *fixed, *peak;
  double scale;

  explicit PartialSum(const TokenSum& to)
      : floats(to.fixed() ? nullptr : out<float>(to.sum)),
        fixed(to.fixed() ? out<int64_t>(to.sum) : nullptr),
        peak(to.fixed() ? out<int64_t>(to.peak) : nullptr),
        scale(to.scale) {}
  bool empty() const { return floats == nullptr && fixed == nullptr; }

  RWKV_DEVICE void add(int64_t i, float partial) const {
    if (fixed == nullptr) {
      if (floats != nullptr) floats[i] += partial;
      return;
    }
    const double p = partial;
    union {
      double d;
      int64_t bits;
    } magnitude{p}, shifted{p * scale + 6755399441055744.0}, magic{6755399441055744.0};
    fixed[i] += shifted.bits - magic.bits;
    device::raise_max(peak, magnitude.bits & 0x7fffffffffffffff);
  }
};

}  // namespace rwkv::cuda
