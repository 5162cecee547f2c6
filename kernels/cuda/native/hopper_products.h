// Products with relu squared in their epilogue, for GPUs of sm_90 (wgmma and TMA, by CUTLASS).
// Where the build has no CUTLASS or is not for sm_90a there are none.
#pragma once

#include <string>

#include "core/base/stream.h"
#include "kernels/matmul.h"

namespace rwkv::cuda {

// "CUTLASS 4.2.0"; empty: there are none.
std::string hopper_library();

// Whether there is a kernel for it and the current device runs it: bf16, without leaves, operands
// and rows at multiples of 16 bytes; forward with trans_b, backward without.
bool hopper_takes(const ReluSquaredProduct&);

// Throws Error where it does not run. Each row's sum runs over k in one order, so bits depend on
// neither the number of rows nor on chance.
void hopper_relu_squared(const Stream&, const ReluSquaredProduct&);

}  // namespace rwkv::cuda
