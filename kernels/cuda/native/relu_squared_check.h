// Whether two ways to make a product with relu squared behind it give the same.
#pragma once

#include "kernels/backend.h"

namespace rwkv::cuda {

// On small operands of its own, which fill no kernel's tiles, to bf16's accuracy. Waits for the
// stream.
bool relu_squared_agrees(const Stream&, bool backward, Kernel<ReluSquaredProduct> way,
                         Kernel<ReluSquaredProduct> other);

}  // namespace rwkv::cuda
