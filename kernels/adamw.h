// AdamW (Loshchilov & Hutter, arXiv 1711.05101), bias-corrected, decoupled decay first:
//   p <- p (1 - lr decay);  m, v <- moments of g;  p <- p - lr (m / c1) / (sqrt(v / c2) + eps)
#pragma once

#include <span>

#include "core/base/tensor.h"

namespace rwkv {

struct AdamWTensor {
  Tensor master;         // (n) acc
  Tensor m, v;           // (n) acc
  ConstTensor grad;      // (n) acc, or i64 in units of grad_unit
  Tensor compute;        // (n) copy of master in the compute type; empty: none is kept
  double grad_unit = 1;  // a power of two; of an i64 grad
  double lr = 0, decay = 0;
};

// All parameters of a step. Gradients are of one type.
struct AdamW {
  std::span<const AdamWTensor> tensors;
  double grad_scale = 1;  // g = grad * grad_scale: clipping and the mean over tokens
  double beta1 = 0.9, beta2 = 0.99, eps = 1e-18;
  double correction1 = 1, correction2 = 1;  // 1 - beta^t, t = updates done including this one
};

}  // namespace rwkv
