// Products by cuBLASLt. It is column-major: a row-major c = a b is its c^T = b^T a^T, so the
// operands change places.
#pragma once

#include "core/base/stream.h"
#include "kernels/backend.h"
#include "kernels/cuda/leaf_products.h"
#include "kernels/matmul.h"
#include "kernels/product_choices.h"

namespace rwkv::cuda {

// Whether the library has an algorithm for it: rows that are not multiples of 16 bytes are for the
// plain kernels.
bool library_takes(const Matmul&);
bool library_takes(const WeightGradient&);

// Under leaves: one call for all whole ones, in which each is a product of its own of a fixed
// shape, and one for each that is cut short.
void library_matmul(const Stream&, const Matmul&);
// Without leaves.
void library_weight_gradient(const Stream&, const WeightGradient&);
void library_leaf_gradients(const Stream&, const LeafProducts&);

// In one kernel where there is one for this GPU and measuring has found it faster, else by
// `in_turn`: a product, and relu squared behind it.
void library_relu_squared(const Stream&, const ReluSquaredProduct&,
                          Kernel<ReluSquaredProduct> in_turn);

// Bytes of a stream's scratch that a product may use.
inline constexpr int64_t kProductWorkspace = int64_t{32} << 20;

const ProductChoices& library_choices();

}  // namespace rwkv::cuda
