// Element types, and the host's bfloat16.
#pragma once

#include <complex>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/base/error.h"

namespace rwkv {

// kC128 exists for one purpose: derivatives by complex step in the tests of the reference kernels.
enum class DType : uint8_t { kF64, kF32, kBF16, kF16, kI64, kI32, kU16, kU8, kC128 };

constexpr int64_t bytes_of(DType type) {
  switch (type) {
    case DType::kC128:
      return 16;
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
    case DType::kU16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType type) {
  switch (type) {
    case DType::kF64:
      return "f64";
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI64:
      return "i64";
    case DType::kI32:
      return "i32";
    case DType::kU16:
      return "u16";
    case DType::kU8:
      return "u8";
    case DType::kC128:
      return "c128";
  }
  return "?";
}

// bfloat16: the upper half of a float32. Rounds to nearest, ties to even; NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  [[gnu::always_inline]] explicit bf16(float value) {
    uint32_t u;
    std::memcpy(&u, &value, 4);
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const uint32_t quiet_nan = (u >> 16) | 0x40u;
    bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
  }
  [[gnu::always_inline]] explicit operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &u, 4);
    return value;
  }
};
static_assert(sizeof(bf16) == 2);

// IEEE binary16. Rounds to nearest, ties to even, beyond 65,504 to infinity; NaN stays NaN.
struct fp16 {
  uint16_t bits = 0;

  fp16() = default;
  explicit fp16(float value) {
    uint32_t u;
    std::memcpy(&u, &value, 4);
    const uint32_t sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    bits = static_cast<uint16_t>(sign | rounded(magnitude));
  }
  explicit operator float() const {
    const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u;
    const uint32_t mantissa = bits & 0x3ffu;
    float value;
    if (exponent == 0) {
      value = static_cast<float>(mantissa) * 0x1p-24f;
      return sign != 0 ? -value : value;
    }
    const uint32_t wide = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
    const uint32_t u = sign | wide | mantissa << 13;
    std::memcpy(&value, &u, 4);
    return value;
  }

 private:
  static uint32_t rounded(uint32_t magnitude) {
    if (magnitude > 0x7f800000u) return 0x7e00u;   // NaN
    if (magnitude >= 0x47800000u) return 0x7c00u;  // 65,536 and more
    if (magnitude < 0x38800000u) {                 // below 2^-14: the sum rounds to units of 2^-24
      float value;
      std::memcpy(&value, &magnitude, 4);
      value += 0.5f;
      std::memcpy(&magnitude, &value, 4);
      return magnitude - 0x3f000000u;
    }
    return (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  }
};
static_assert(sizeof(fp16) == 2);

template <class T>
inline constexpr DType kDTypeOf = [] {
  if constexpr (std::is_same_v<T, double>)
    return DType::kF64;
  else if constexpr (std::is_same_v<T, float>)
    return DType::kF32;
  else if constexpr (std::is_same_v<T, bf16>)
    return DType::kBF16;
  else if constexpr (std::is_same_v<T, fp16>)
    return DType::kF16;
  else if constexpr (std::is_same_v<T, int64_t>)
    return DType::kI64;
  else if constexpr (std::is_same_v<T, int32_t>)
    return DType::kI32;
  else if constexpr (std::is_same_v<T, uint16_t>)
    return DType::kU16;
  else if constexpr (std::is_same_v<T, uint8_t>)
    return DType::kU8;
  else if constexpr (std::is_same_v<T, std::complex<double>>)
    return DType::kC128;
}();

}  // namespace rwkv
