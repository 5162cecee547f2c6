// The element-wise parts of RWKV-7's time mix before and after the recurrence.
#pragma once

#include "kernels/token_sum.h"

namespace rwkv {

// Before. Per channel, heads of N channels:
//   a     = sigmoid(a0 + iclr)            in-context learning rate
//   v     = value + (v_first - value) sigmoid(v0 + value_gate)    (first layer: v = value)
//   kappa = normalize per head (key k_k), divisor max(norm, 1e-12); uses key before the next line
//   k     = key (1 + (a - 1) k_a)
//   A     = -kappa, Bv = kappa a
struct TimeMixInForward {
  ConstTensor iclr;          // (R, C) output of the in-context-learning-rate MLP, pre-sigmoid
  ConstTensor value_gate;    // (R, C) output of the value-residual MLP; empty in the first layer
  ConstTensor key, value;    // (R, C) projections
  ConstTensor v_first;       // (R, C) v of the first layer; empty in the first layer
  ConstTensor a0, k_k, k_a;  // (C) acc
  ConstTensor v0;            // (C) acc; empty in the first layer
  int64_t head_size = 64;
  Tensor k, v, a, b;  // (R, C): k, v, A, Bv of the recurrence
};

struct TimeMixInBackward {
  ConstTensor iclr, value_gate, key, value, v_first;  // (R, C) as above
  ConstTensor a0, k_k, k_a, v0;                       // (C) acc
  int64_t head_size = 64;
  ConstTensor dw_raw, dk, dv, da, db;  // (R, C)
  Tensor diclr, dvalue_gate;           // (R, C)
  Tensor dkey, dvalue;                 // (R, C)
  Tensor dv_first;  // (R, C) acc, accumulated; first layer: its content is added to dv
  TokenSum dw0, da0, dk_k, dk_a, dv0;  // (C)
  Leaves leaves = {};
};

// After: z = (GroupNorm(y) + (sum_j r_j k_j r_k[h, j]) v) g, groups = heads, eps 64e-5 at every
// size.
struct TimeMixOutForward {
  ConstTensor y, r, k, v, g;       // (R, C)
  ConstTensor ln_weight, ln_bias;  // (C) acc
  ConstTensor r_k;                 // (H, N) acc
  int64_t head_size = 64;
  double eps = 64e-5;
  Tensor z;  // (R, C)
};

struct TimeMixOutBackward {
  ConstTensor y, r, k, v, g;       // (R, C)
  ConstTensor ln_weight, ln_bias;  // (C) acc
  ConstTensor r_k;                 // (H, N) acc
  int64_t head_size = 64;
  double eps = 64e-5;
  ConstTensor dz;                       // (R, C)
  Tensor z = {};                        // (R, C) the output again; empty: not wanted
  Tensor dy, dv, dg;                    // (R, C) overwritten; dg may be dz
  Tensor dbonus;                        // (R, H) acc: gradient of r_k . (r k)
  TokenSum dln_weight, dln_bias, dr_k;  // (C), (C), (H, N)
  Leaves leaves = {};
};

}  // namespace rwkv
