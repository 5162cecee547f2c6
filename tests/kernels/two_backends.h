// One op on two backends: the reference in double, and the tested one in its own types.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "core/base/arena.h"
#include "kernels/backend.h"
#include "tests/support/tensors.h"

namespace rwkv::test {

// Owned tensors of one type, by name, in double (reference) and in the tested types.
class TwoBackends {
 public:
  TwoBackends(DType compute, const Backend& ops, int threads)
      : compute_(compute), ops_(ops), stream_{threads} {}

  // Input of the compute type, or of the accumulation type.
  void input(const std::string& name, const Shape& shape, double scale = 1) {
    add(name, shape, compute_, normals(name, shape.elements(), scale));
  }
  void acc_input(const std::string& name, const Shape& shape, double scale = 1) {
    add(name, shape, DType::kF32, normals(name, shape.elements(), scale));
  }
  void output(const std::string& name, const Shape& shape) {
    add(name, shape, compute_, std::vector<double>(static_cast<size_t>(shape.elements())));
    outputs_.push_back(name);
  }
  void acc_output(const std::string& name, const Shape& shape, double start = 0) {
    add(name, shape, DType::kF32,
        std::vector<double>(static_cast<size_t>(shape.elements()), start));
    outputs_.push_back(name);
  }

  // Runs `make(lookup)` on both backends; lookup(name) is the tensor of that backend.
  using Lookup = std::function<Tensor(const std::string&)>;
  template <class Op>
  void run(Kernel<Op> Backend::*kernel, const std::function<Op(const Lookup&)>& make) {
    const Backend& reference = reference_backend();
    (reference.*kernel)(Stream{}, make([&](const std::string& n) { return wide_.at(n).view(); }));
    (ops_.*kernel)(stream_, make([&](const std::string& n) { return tensors_.at(n); }));
  }
  // All outputs within tolerance, by norm.
  void expect_close(double for_float, double for_bf16) {
    const double limit = compute_ == DType::kF32 ? for_float : for_bf16;
    for (const std::string& name : outputs_) {
      EXPECT_LT(distance(doubles(tensors_.at(name)), wide_.at(name).copy()), limit) << name;
    }
  }
  DType compute() const { return compute_; }
  int threads() const { return stream_.threads; }

 private:
  void add(const std::string& name, const Shape& shape, DType type,
           const std::vector<double>& values) {
    Buffer& buffer = buffers_.emplace_back(shape.elements() * bytes_of(type));
    const Tensor t{buffer.data(), type, shape};
    assign(t, values);
    tensors_[name] = t;
    wide_[name] = Owned<double>(shape);
    wide_[name].set(doubles(t));  // rounded as the tested kernel sees it
  }

  DType compute_;
  const Backend& ops_;
  Stream stream_;
  std::vector<Buffer> buffers_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, Owned<double>> wide_;
  std::vector<std::string> outputs_;
};

}  // namespace rwkv::test
