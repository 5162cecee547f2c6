// The one place where return codes of CUDA's run time are looked at in kernels/cuda.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "core/base/error.h"

namespace rwkv::device {

inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  throw Error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(code));
}

}  // namespace rwkv::device
