// The kernels for the GPU, as the library that the program opens at run time.
#include "kernels/cuda/table.h"

namespace {

const rwkv::Backend& table() {
  static const rwkv::Backend t = rwkv::cuda::make_table("cuda", "simt");
  return t;
}

}  // namespace

extern "C" const rwkv::Backend* rwkv_cuda_backend() { return &table(); }
