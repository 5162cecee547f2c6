// Conversion of whole tensors between element types.
#pragma once

#include <string>

#include "core/base/tensor.h"

namespace rwkv {

// Copies `from` into `to`, which has as many elements. Floating-point values are rounded to nearest
// (to bf16 by way of float32); an integer target takes only values that it holds exactly, else
// InputError, which begins with `where`. No c128.
void convert(ConstTensor from, Tensor to, const std::string& where);

}  // namespace rwkv
