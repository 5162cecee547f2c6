#pragma once

#include "core/base/stream.h"
#include "kernels/elementwise.h"
#include "kernels/reference/scalar.h"

namespace rwkv::reference {

template <class S>
void activation_forward(const Stream&, const ActivationForward& op) {
  const S* x = op.x.as<S>();
  S* y = op.y.as<S>();
  for (int64_t i = 0; i < op.x.elements(); ++i) {
    switch (op.kind) {
      case Activation::kTanh:
        y[i] = std::tanh(x[i]);
        break;
      case Activation::kSigmoid:
        y[i] = sigmoid(x[i]);
        break;
      case Activation::kReluSquared:
        y[i] = real_part(x[i]) > 0 ? x[i] * x[i] : S(0);
        break;
    }
  }
}

template <class S>
void activation_backward(const Stream&, const ActivationBackward& op) {
  const S* x = op.x.as<S>();
  const S* dy = op.dy.as<S>();
  S* dx = op.dx.as<S>();
  for (int64_t i = 0; i < op.x.elements(); ++i) {
    switch (op.kind) {
      case Activation::kTanh: {
        const S y = std::tanh(x[i]);
        dx[i] = dy[i] * (S(1) - y * y);
        break;
      }
      case Activation::kSigmoid: {
        const S y = sigmoid(x[i]);
        dx[i] = dy[i] * y * (S(1) - y);
        break;
      }
      case Activation::kReluSquared:
        dx[i] = real_part(x[i]) > 0 ? S(2) * std::sqrt(x[i]) * dy[i] : S(0);
        break;
    }
  }
}

template <class From, class To>
void cast(const Stream&, const Cast& op) {
  const From* from = op.from.as<From>();
  To* to = op.to.as<To>();
  for (int64_t i = 0; i < op.from.elements(); ++i) to[i] = static_cast<To>(from[i]);
}

template <class S>
void sum_squares(const Stream&, const SumSquares& op) {
  const S* x = op.x.as<S>();
  double sum = 0;
  for (int64_t i = 0; i < op.x.elements(); ++i) {
    const double value = static_cast<double>(x[i]) * op.unit;
    sum += value * value;
  }
  op.result.as<double>()[0] = sum;
}

}  // namespace rwkv::reference
