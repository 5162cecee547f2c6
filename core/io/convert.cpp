#include "core/io/convert.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

namespace rwkv {
namespace {

template <class From, class To>
To converted(From value, const std::string& where) {
  if constexpr (std::is_same_v<From, To>) {
    return value;
  } else if constexpr (std::is_same_v<From, bf16>) {
    return converted<float, To>(static_cast<float>(value), where);
  } else if constexpr (std::is_same_v<To, bf16>) {
    return bf16(static_cast<float>(value));
  } else if constexpr (std::is_floating_point_v<To>) {
    return static_cast<To>(value);
  } else if constexpr (std::is_floating_point_v<From>) {
    // 2^digits is the first value above the range, and exact in every floating-point type.
    const From end = std::ldexp(From{1}, std::numeric_limits<To>::digits);
    const From begin = std::is_signed_v<To> ? -end : From{0};
    if (!(value >= begin && value < end) || value != std::trunc(value)) {
      throw InputError(where + ": the value " + std::to_string(value) +
                       " does not fit the integer type it is read as");
    }
    return static_cast<To>(value);
  } else {
    if (!std::in_range<To>(value)) {
      throw InputError(where + ": the value " + std::to_string(value) +
                       " does not fit the integer type it is read as");
    }
    return static_cast<To>(value);
  }
}

template <class F>
void with_type(DType dtype, const std::string& where, F f) {
  switch (dtype) {
    case DType::kF64:
      return f(double{});
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(bf16{});
    case DType::kI64:
      return f(int64_t{});
    case DType::kI32:
      return f(int32_t{});
    case DType::kU16:
      return f(uint16_t{});
    case DType::kU8:
      return f(uint8_t{});
    case DType::kF16:
    case DType::kC128:
      break;
  }
  throw Error(where + ": type " + std::string(name_of(dtype)) + " is not converted");
}

}  // namespace

void convert(ConstTensor from, Tensor to, const std::string& where) {
  require(from.elements() == to.elements(), "convert() needs as many elements on both sides");
  with_type(from.dtype, where, [&]<class From>(From) {
    with_type(to.dtype, where, [&]<class To>(To) {
      const From* source = from.as<From>();
      To* target = to.as<To>();
      const int64_t n = from.elements();
      for (int64_t i = 0; i < n; ++i) target[i] = converted<From, To>(source[i], where);
    });
  });
}

}  // namespace rwkv
