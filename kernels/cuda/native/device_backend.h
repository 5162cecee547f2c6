// The GPU under kernels/cuda/device.h. For .cu files alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include <device_check.h>
#include "core/base/stream.h"

#define RWKV_DEVICE __device__ __forceinline__

namespace rwkv::device {

struct LaunchShape {
  int64_t blocks = 0;
  int threads = 0;
  int64_t shared_bytes = 0;
};

RWKV_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }
RWKV_DEVICE int64_t block_count() { return static_cast<int64_t>(gridDim.x); }
RWKV_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
RWKV_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
RWKV_DEVICE void sync_block() { __syncthreads(); }
RWKV_DEVICE float warp_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
RWKV_DEVICE void raise_max(int64_t* to, int64_t value) {
  atomicMax(reinterpret_cast<long long*>(to), static_cast<long long>(value));
}
RWKV_DEVICE std::byte* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<std::byte*>(memory);
}

template <class Kernel>
__global__ void run(const Kernel kernel) {
  kernel();
}

template <class Kernel>
void launch(const Stream& stream, const LaunchShape& shape, const Kernel& kernel) {
  if (shape.blocks == 0) return;
  run<Kernel>
      <<<static_cast<unsigned>(shape.blocks), static_cast<unsigned>(shape.threads),
         static_cast<size_t>(shape.shared_bytes), static_cast<cudaStream_t>(stream.native)>>>(
          kernel);
  check(cudaGetLastError(), "launch");
}

}  // namespace rwkv::device
