// Matrix product c = op(a) op(b) + beta add, row-major.
#pragma once

#include "kernels/token_sum.h"

namespace rwkv {

// a and b share a type (the compute type); c has that type or the accumulation type. Sums run in
// float32 (float64 for float64) and are rounded once. beta is 0 or 1. The dimensions are those of c
// and of op(a); leading dimensions of higher ranks are folded into rows by the caller.
struct Matmul {
  ConstTensor a;  // (M, K), or (K, M) when trans_a
  ConstTensor b;  // (K, N), or (N, K) when trans_b
  Tensor c;       // (M, N)
  bool trans_a = false;
  bool trans_b = false;
  float beta = 0;
  ConstTensor add = {};  // (M, N) in c's type; empty: what is in c
  Leaves leaves = {};    // without trans_a: rows of c are computed in calls that keep to a leaf
};

// A product with relu squared behind it, which need not be written out in between. One type, beta
// 0.
//   forward, `squared` empty: c = relu(op(a) op(b))^2
//   backward: c = 2 sqrt(squared) op(a) op(b), element by element: the product is the gradient
//   behind relu squared, c the one before it, and `squared` what forward gave.
struct ReluSquaredProduct {
  Matmul product;
  ConstTensor squared = {};  // (M, N)
};

// to += left^T right: the gradient of a weight, summed over the R tokens leaf by leaf. left and
// right are in the compute type, partials in the accumulation type.
struct WeightGradient {
  ConstTensor left;   // (R, M)
  ConstTensor right;  // (R, N)
  TokenSum to;        // (M, N)
  Leaves leaves = {};
};

}  // namespace rwkv
