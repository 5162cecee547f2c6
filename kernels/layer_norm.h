// LayerNorm over channels: y = (x - mean) rstd weight + bias, rstd = 1 / sqrt(var + eps), biased
// variance. Statistics in the accumulation type.
#pragma once

#include "kernels/token_sum.h"

namespace rwkv {

struct LayerNormForward {
  ConstTensor x;             // (R, C)
  ConstTensor weight, bias;  // (C) acc
  double eps = 1e-5;
  Tensor out;         // (R, C)
  Tensor mean, rstd;  // (R) acc
};

struct LayerNormBackward {
  ConstTensor x;             // (R, C)
  ConstTensor weight, bias;  // (C) acc
  ConstTensor mean, rstd;    // (R) acc
  ConstTensor dout;          // (R, C)
  ConstTensor residual;      // (R, C) added to dx: the gradient that bypasses the norm; empty: none
  Tensor dx;                 // (R, C) = gradient through the norm + residual; may be residual
  TokenSum dweight, dbias;   // (C)
  Leaves leaves = {};
};

}  // namespace rwkv
