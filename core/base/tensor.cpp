#include "core/base/tensor.h"

namespace rwkv {

std::string to_string(const Shape& shape) {
  std::string out = "(";
  for (int i = 0; i < shape.rank; ++i) {
    if (i > 0) out += ", ";
    out += std::to_string(shape[i]);
  }
  return out + ")";
}

}  // namespace rwkv
