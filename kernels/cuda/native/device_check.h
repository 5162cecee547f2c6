// The one place where CUDA's return codes are looked at.
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
