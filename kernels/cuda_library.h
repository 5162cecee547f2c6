// librwkv_cuda.so, opened when it is first asked for: the program itself needs neither a driver nor
// the CUDA libraries, and goes on without them.
#pragma once

#include <string>
#include <vector>

#include "kernels/backend.h"

namespace rwkv {

struct CudaLibrary {
  const Backend* backend = nullptr;  // nullptr: there is none; `why` says so in a few words
  int devices = 0;                   // 0: `why`
  std::string device;                // "NVIDIA H200, sm_90, 139.8 GiB" of device 0
  std::vector<std::string> ids;  // of each device: the same in every process that sees it; empty:
                                 // it cannot be used
  std::string why;
  void (*select)(int device) = nullptr;  // the GPU of this process, from now on
  // Host memory that the GPU can reach at the same address, to the end of the process; nullptr:
  // there is not that much.
  std::byte* (*shared_memory)(int64_t bytes) = nullptr;
};

// Whether this build has it, without opening it.
bool has_cuda_library();

// Thread-safe; the library stays open to the end of the process.
const CudaLibrary& cuda_library();

}  // namespace rwkv
