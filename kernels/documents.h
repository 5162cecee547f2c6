// Where documents start in packed sequences.
#pragma once

#include "core/base/tensor.h"

namespace rwkv {

// starts: (B, T) i32, not 0 where a document starts; empty: nowhere. row: b T + t.
[[gnu::always_inline]] inline bool starts_at(const ConstTensor& starts, int64_t row) {
  return !starts.empty() && starts.as<int32_t>()[row] != 0;
}

}  // namespace rwkv
