// Owned tensors, random filling and comparison for tests.
#pragma once

#include <cmath>
#include <complex>
#include <new>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/base/tensor.h"

namespace rwkv::test {

// As the arena aligns: kernels may ask for whole vectors.
template <class T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}
  T* allocate(size_t n) {
    return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* p, size_t) { ::operator delete (p, std::align_val_t{64}); }
  bool operator==(const AlignedAllocator&) const { return true; }
};

// Memory of a tensor of T.
template <class T>
class Owned {
 public:
  Owned() = default;
  explicit Owned(const Shape& shape)
      : shape_(shape), values_(static_cast<size_t>(shape.elements())) {}
  Tensor view() { return view_of(values_.data(), shape_); }
  T& operator[](int64_t i) { return values_[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return values_[static_cast<size_t>(i)]; }
  int64_t size() const { return static_cast<int64_t>(values_.size()); }
  std::vector<T, AlignedAllocator<T>>& values() { return values_; }
  std::vector<T> copy() const { return {values_.begin(), values_.end()}; }
  void set(const std::vector<T>& values) { values_.assign(values.begin(), values.end()); }

 private:
  Shape shape_;
  std::vector<T, AlignedAllocator<T>> values_;
};

// Any numeric tensor as doubles.
inline std::vector<double> doubles(const ConstTensor& t) {
  std::vector<double> out(static_cast<size_t>(t.elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    switch (t.dtype) {
      case DType::kF64:
        out[i] = t.as<double>()[i];
        break;
      case DType::kF32:
        out[i] = static_cast<double>(t.as<float>()[i]);
        break;
      case DType::kBF16:
        out[i] = static_cast<double>(static_cast<float>(t.as<bf16>()[i]));
        break;
      case DType::kF16:
        out[i] = static_cast<double>(static_cast<float>(t.as<fp16>()[i]));
        break;
      case DType::kI32:
        out[i] = t.as<int32_t>()[i];
        break;
      case DType::kI64:
        out[i] = static_cast<double>(t.as<int64_t>()[i]);
        break;
      default:
        throw Error("doubles(): unexpected type");
    }
  }
  return out;
}

// Writes doubles into a tensor of f64, f32 or bf16.
inline void assign(const Tensor& t, const std::vector<double>& values) {
  require(static_cast<int64_t>(values.size()) == t.elements(), "assign: size");
  for (size_t i = 0; i < values.size(); ++i) {
    switch (t.dtype) {
      case DType::kF64:
        t.as<double>()[i] = values[i];
        break;
      case DType::kF32:
        t.as<float>()[i] = static_cast<float>(values[i]);
        break;
      case DType::kBF16:
        t.as<bf16>()[i] = bf16(static_cast<float>(values[i]));
        break;
      case DType::kF16:
        t.as<fp16>()[i] = fp16(static_cast<float>(values[i]));
        break;
      default:
        throw Error("assign(): unexpected type");
    }
  }
}

// The larger of the two, for ever NaN from the first NaN on, which no limit is above.
inline void raise(double& worst, double x) {
  if (!std::isnan(worst) && !(x <= worst)) worst = x;
}

// |a - b| / |b| by norm; |a - b| where b is zero. NaN where either has one.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  require(a.size() == b.size(), "distance: lengths");
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// Standard normal numbers, the same for the same name.
inline std::vector<double> normals(const std::string& name, int64_t count, double scale = 1) {
  const Philox random(42, name);
  std::vector<double> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) out[i] = scale * random.normal(i);
  return out;
}

}  // namespace rwkv::test
