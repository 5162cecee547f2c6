// The CUDA backend for tests that keep their tensors in the host's memory: new and delete give
// memory that the GPU reaches too, and each op is over when its call returns.
#pragma once

#include "kernels/backend.h"

namespace rwkv::test {

// nullptr: there is no GPU, or the build has no CUDA. From the first call on new gives such memory.
const Backend* gpu_backend();

// In a few words, when there is none.
std::string why_no_gpu();

}  // namespace rwkv::test
