// What leaves add to a weight's gradient, as products.
#pragma once

#include "core/base/tensor.h"

namespace rwkv::cuda {

// to[leaf] = columns [begin, end) of left, transposed, times right, for each of `count` leaves of
// equally many rows that follow one another.
struct LeafProducts {
  ConstTensor left;   // (R, M)
  ConstTensor right;  // (R, N)
  int64_t count, begin, end;
  float* to;  // (count, end - begin, N)
};

}  // namespace rwkv::cuda
