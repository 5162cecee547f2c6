// Activations, casts and sums over elements.
#pragma once

#include "core/base/tensor.h"

namespace rwkv {

enum class Activation : uint8_t { kTanh, kSigmoid, kReluSquared };

// y = f(x); any equal shapes. y may be x.
struct ActivationForward {
  Activation kind = Activation::kTanh;
  ConstTensor x;
  Tensor y;
};

// dx = dy f'(x), from the pre-activation x; of kReluSquared from y = f(x), as 2 sqrt(y): the square
// alone need be kept. dx may be dy.
struct ActivationBackward {
  Activation kind = Activation::kTanh;
  ConstTensor x, dy;
  Tensor dx;
};

// to = from, converted with one rounding. Any of f64, f32, bf16.
struct Cast {
  ConstTensor from;
  Tensor to;
};

// result[0] (f64) = sum of squares over x (f32 or f64; i64 in units of `unit`), added up in blocks
// of a fixed size.
struct SumSquares {
  ConstTensor x;
  Tensor result;  // (1) f64
  double unit = 1;
};

}  // namespace rwkv
