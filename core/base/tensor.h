// Views of tensors: pointer, type, shape. A view never owns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace rwkv {

// Row-major, contiguous, rank <= 6 (states per chunk (B, chunks, H, N, N) are rank 5).
struct Shape {
  std::array<int64_t, 6> dim{1, 1, 1, 1, 1, 1};
  int rank = 0;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    require(dims.size() <= dim.size(), "a shape has at most 6 dimensions");
    for (int64_t d : dims) dim[static_cast<size_t>(rank++)] = d;
  }
  [[gnu::always_inline]] int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dim[static_cast<size_t>(i)];
    return n;
  }
  [[gnu::always_inline]] int64_t operator[](int i) const { return dim[static_cast<size_t>(i)]; }
  bool operator==(const Shape&) const = default;
};

std::string to_string(const Shape&);  // "(2, 128, 64)"

// `Byte` is std::byte or const std::byte, as in std::span. An empty view (data == nullptr) means
// "not there": optional operands of kernels, or a plan that only measures.
template <class Byte>
struct View {
  Byte* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  [[gnu::always_inline]] bool empty() const { return data == nullptr; }
  [[gnu::always_inline]] int64_t elements() const { return shape.elements(); }
  int64_t bytes() const { return elements() * bytes_of(dtype); }

  // The elements as T. Throws when the view holds another type. An empty view gives nullptr.
  template <class T>
  [[gnu::always_inline]] auto* as() const {
    using Element = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    if (data != nullptr && dtype != kDTypeOf<T>) [[unlikely]]
      wrong_type(kDTypeOf<T>);
    return reinterpret_cast<Element*>(data);
  }

  // Rows [begin, end) of the first dimension.
  View rows(int64_t begin, int64_t end) const {
    require(shape.rank >= 1 && begin >= 0 && begin <= end && end <= shape[0], "rows out of range");
    View out = *this;
    const int64_t row = shape[0] == 0 ? 0 : elements() / shape[0];
    if (data != nullptr) out.data = data + begin * row * bytes_of(dtype);
    out.shape.dim[0] = end - begin;
    return out;
  }

  // The same elements under another shape.
  View reshaped(const Shape& to) const {
    require(to.elements() == elements(), "reshape must keep the number of elements");
    View out = *this;
    out.shape = to;
    return out;
  }

  template <class B = Byte>
  requires(!std::is_const_v<B>) operator View<const B>() const { return {data, dtype, shape}; }

 private:
  [[noreturn, gnu::noinline]] void wrong_type(DType wanted) const {
    throw Error("internal: a tensor of " + std::string(name_of(dtype)) + " was read as " +
                std::string(name_of(wanted)));
  }
};

using Tensor = View<std::byte>;
using ConstTensor = View<const std::byte>;

// A view of somebody's array; the array must outlive it.
template <class T>
auto view_of(T* data, const Shape& shape) {
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return View<Byte>{reinterpret_cast<Byte*>(data), kDTypeOf<std::remove_const_t<T>>, shape};
}

}  // namespace rwkv
