// Products by cuBLASLt.
#pragma once

#include "core/base/stream.h"
#include "kernels/matmul.h"

namespace rwkv::cuda {

// Whether the library has an algorithm for it: leaves, which want fixed calls, and rows that are
// not multiples of 16 bytes, are for the plain kernels.
bool library_takes(const Matmul&);
bool library_takes(const WeightGradient&);

void library_matmul(const Stream&, const Matmul&);
void library_weight_gradient(const Stream&, const WeightGradient&);

}  // namespace rwkv::cuda
