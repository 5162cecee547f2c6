// Gradients of an op by complex step: d f / d x = Im f(x + i h) / h, exact to rounding.
#pragma once

#include <complex>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/base/stream.h"
#include "tests/support/tensors.h"

namespace rwkv::test {

using Complex = std::complex<double>;
using Tensors = std::map<std::string, Owned<Complex>>;

// An op as its test sees it. Inputs and outputs by name; the scalar whose gradient is checked is
// sum over outputs of output * upstream.
struct OpUnderTest {
  std::map<std::string, Shape> inputs, outputs;
  std::function<void(Tensors& in, Tensors& out)> forward;
  // From inputs and upstream gradients of the outputs to gradients of the inputs.
  std::function<void(Tensors& in, Tensors& upstream, Tensors& gradients)> backward;
};

// Largest difference between backward and complex step over all elements of all inputs, relative to
// the largest gradient of that input; the name of the worst in *worst.
inline double check_gradients(const OpUnderTest& op, std::string* worst,
                              const std::map<std::string, std::vector<double>>& given = {}) {
  const auto make = [](const std::map<std::string, Shape>& shapes) {
    Tensors out;
    for (const auto& [name, shape] : shapes) out[name] = Owned<Complex>(shape);
    return out;
  };
  Tensors in = make(op.inputs), upstream = make(op.outputs), gradients = make(op.inputs);
  for (auto& [name, tensor] : in) {
    const auto fixed = given.find(name);
    const std::vector<double> values =
        fixed != given.end() ? fixed->second : normals("input " + name, tensor.size());
    for (int64_t i = 0; i < tensor.size(); ++i) tensor[i] = values[static_cast<size_t>(i)];
  }
  for (auto& [name, tensor] : upstream) {
    const auto values = normals("upstream " + name, tensor.size());
    for (int64_t i = 0; i < tensor.size(); ++i) tensor[i] = values[static_cast<size_t>(i)];
  }
  op.backward(in, upstream, gradients);
  double largest_error = 0;
  constexpr double kStep = 1e-30;
  for (auto& [name, tensor] : in) {
    double scale = 1e-30, error = 0;
    for (int64_t i = 0; i < tensor.size(); ++i) {
      raise(scale, std::abs(gradients[name][i].real()));
    }
    for (int64_t i = 0; i < tensor.size(); ++i) {
      tensor[i] += Complex(0, kStep);
      Tensors out = make(op.outputs);
      op.forward(in, out);
      tensor[i] = tensor[i].real();
      double derivative = 0;
      for (auto& [output, values] : out) {
        for (int64_t j = 0; j < values.size(); ++j) {
          derivative += (values[j] * upstream[output][j]).imag() / kStep;
        }
      }
      raise(error, std::abs(derivative - gradients[name][i].real()));
    }
    if (!(error / scale <= largest_error)) *worst = name;
    raise(largest_error, error / scale);
  }
  return largest_error;
}

}  // namespace rwkv::test
