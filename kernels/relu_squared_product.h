// A product with relu squared behind it, for backends that have no such op: one after the other.
#pragma once

#include "core/base/stream.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace rwkv {

// The three are a backend's kernels.
template <auto product, auto activation, auto gradient>
void relu_squared_in_turn(const Stream& stream, const ReluSquaredProduct& op) {
  const Tensor& c = op.product.c;
  product(stream, op.product);
  if (op.squared.empty()) {
    activation(stream, ActivationForward{Activation::kReluSquared, c, c});
  } else {
    gradient(stream, ActivationBackward{Activation::kReluSquared, op.squared, c, c});
  }
}

}  // namespace rwkv
