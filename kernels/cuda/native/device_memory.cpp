#include <device_memory.h>

#include <device_check.h>

namespace rwkv::device {
namespace {

cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.native); }

std::byte* allocate(int64_t bytes) {
  void* p = nullptr;
  const cudaError_t code = cudaMalloc(&p, static_cast<size_t>(bytes));
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is reported by nullptr, not by the next call
    return nullptr;
  }
  check(code, "cudaMalloc");
  check(cudaMemset(p, 0, static_cast<size_t>(bytes)), "cudaMemset");
  return static_cast<std::byte*>(p);
}

// A destructor's: a failure would be an earlier kernel's, which the next call reports too.
void release(std::byte* p) { cudaFree(p); }

bool on_device(const std::byte* p) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, p), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeDevice;
}

void copy(const Stream& stream, std::byte* to, const std::byte* from, int64_t bytes) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, native(stream)),
        "cudaMemcpyAsync");
  if (!on_device(to) || !on_device(from)) {
    check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
  }
}

void zero(const Stream& stream, std::byte* to, int64_t bytes) {
  check(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), native(stream)), "cudaMemsetAsync");
}

void wait(const Stream& stream) {
  check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
}

int64_t available() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<int64_t>(free);
}

}  // namespace

const Memory& device_memory() {
  static const Memory table{.name = "cuda",
                            .host = false,
                            .allocate = allocate,
                            .release = release,
                            .copy = copy,
                            .zero = zero,
                            .wait = wait,
                            .available = available};
  return table;
}

}  // namespace rwkv::device
