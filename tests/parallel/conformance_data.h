// Data and assertions of the conformance checks.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/tensor.h"

namespace rwkv::conformance {

inline void expect(bool ok, const std::string& what, Here at = {}) {
  if (!ok) throw std::runtime_error(what + " (line " + std::to_string(at.line) + ")");
}

template <class Exception, class Call>
void expect_throw(const Call& call, const std::string& what, Here at = {}) {
  try {
    call();
  } catch (const Exception&) {
    return;
  }
  expect(false, what + " did not throw", at);
}

// Many elements for one type alone: what depends on the type shows with few.
inline std::vector<int64_t> odd_sizes(DType type) {
  return {0, 1, 7, type == DType::kF32 ? 1000003 : 4099};
}
inline constexpr DType kAllTypes[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kI64,
                                      DType::kI32, DType::kU16, DType::kU8,   DType::kC128};

// A number for each (rank, element), with no pattern that a shifted copy would share.
inline uint64_t mixed(int rank, int64_t element) {
  uint64_t x = static_cast<uint64_t>(rank + 1) * 0x9e3779b97f4a7c15u +
               static_cast<uint64_t>(element) * 0xd1342543de82ef95u;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9u;
  return x ^ (x >> 32);
}

// Memory of `count` elements of any type.
struct Bytes {
  Bytes(DType t, int64_t count)
      : type(t), elements(count), data(static_cast<size_t>(count * bytes_of(t))) {}
  void fill(int rank) {
    for (size_t i = 0; i < data.size(); ++i) data[i] = expected(rank, i);
  }
  static std::byte expected(int rank, size_t i) {
    return static_cast<std::byte>(mixed(rank, static_cast<int64_t>(i)) & 0xff);
  }
  bool holds(int rank, size_t begin = 0, size_t end = SIZE_MAX) const {
    for (size_t i = begin; i < std::min(end, data.size()); ++i) {
      if (data[i] != expected(rank, i - begin)) return false;
    }
    return true;
  }
  Tensor view() { return {data.data(), type, {elements}}; }

  DType type;
  int64_t elements;
  std::vector<std::byte> data;
};

inline std::string label(DType type, int64_t count) {
  return std::string(name_of(type)) + " x " + std::to_string(count);
}

}  // namespace rwkv::conformance
