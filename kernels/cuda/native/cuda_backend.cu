// The kernels for the GPU, as the library that the program opens at run time
// (kernels/cuda_library.h).
#include <unistd.h>

#include <cstdio>
#include <string>
#include <string_view>

#include <device_memory.h>
#include <graphs.h>
#include <library_products.h>
#include "kernels/cuda/table.h"

namespace {

void matmul(const rwkv::Stream& stream, const rwkv::Matmul& op) {
  rwkv::cuda::library_takes(op) ? rwkv::cuda::library_matmul(stream, op)
                                : rwkv::cuda::typed<rwkv::cuda::MatmulOp>(stream, op);
}

void relu_squared_in_two(const rwkv::Stream& stream, const rwkv::ReluSquaredProduct& op) {
  using namespace rwkv::cuda;
  rwkv::relu_squared_in_turn<matmul, typed<ActivationForwardOp, rwkv::ActivationForward>,
                             typed<ActivationBackwardOp, rwkv::ActivationBackward>>(stream, op);
}

void relu_squared_product(const rwkv::Stream& stream, const rwkv::ReluSquaredProduct& op) {
  rwkv::cuda::library_relu_squared(stream, op, relu_squared_in_two);
}

void weight_gradient(const rwkv::Stream& stream, const rwkv::WeightGradient& op) {
  using namespace rwkv::cuda;
  const bool fixed = op.to.fixed(), floats = !fixed && op.leaves.leaf == 0;
  if (!library_takes(op) || !(fixed || floats)) return typed<WeightGradientOp>(stream, op);
  if (floats) return library_weight_gradient(stream, op);
  weight_gradient_by_leaves(stream, op, kProductWorkspace, library_leaf_gradients);
}

// GPUs before sm_80 have none, and one of them is enough that none is used; where there is no GPU
// the question does not arise.
bool has_bf16() {
  int devices = 0, major = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return true;
  for (int device = 0; device < devices; ++device) {
    const auto code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (code != cudaSuccess || major < 8) return false;
  }
  return true;
}

rwkv::Backend make_backend() {
  rwkv::Backend t = rwkv::cuda::make_table("cuda", "sm");
  t.bf16 = has_bf16();
  t.memory = &rwkv::device::device_memory();
  t.matmul = matmul;
  t.relu_squared_product = relu_squared_product;
  t.weight_gradient = weight_gradient;
  t.recording = &rwkv::device::graphs();
  t.choices = &rwkv::cuda::library_choices();
  t.build = "CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
            std::to_string(CUDART_VERSION % 1000 / 10);
  return t;
}

const rwkv::Backend& table() {
  static const rwkv::Backend t = make_backend();
  return t;
}

// Nothing here fails for want of a driver: that is what it finds out.
int count_devices(char* text, int size) {
  int driver = 0, devices = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    std::snprintf(text, static_cast<size_t>(size), "no driver on this machine");
    return 0;
  }
  const cudaError_t code = cudaGetDeviceCount(&devices);
  if (code != cudaSuccess || devices == 0) {
    std::snprintf(text, static_cast<size_t>(size), "no device: %s", cudaGetErrorString(code));
    return 0;
  }
  cudaDeviceProp device{};
  rwkv::device::check(cudaGetDeviceProperties(&device, 0), "device properties");
  std::snprintf(text, static_cast<size_t>(size), "%s, sm_%d%d, %.1f GiB", device.name, device.major,
                device.minor, static_cast<double>(device.totalGlobalMem) / (1 << 30));
  return devices;
}

// The uuid; where a virtual machine hides it, where the device is plugged in on this host.
std::string device_id(int device) {
  cudaDeviceProp properties{};
  rwkv::device::check(cudaGetDeviceProperties(&properties, device), "device properties");
  std::string id;
  bool hidden = true;
  for (const char byte : properties.uuid.bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    id += kDigits[static_cast<unsigned char>(byte) >> 4];
    id += kDigits[static_cast<unsigned char>(byte) & 15];
    hidden = hidden && byte == 0;
  }
  if (!hidden) return id;
  char host[256] = {}, bus[32] = {};
  gethostname(host, sizeof host - 1);
  rwkv::device::check(cudaDeviceGetPCIBusId(bus, sizeof bus, device), "PCI bus id");
  return std::string(host) + " " + bus;
}

}  // namespace

extern "C" const rwkv::Backend* rwkv_cuda_backend() { return &table(); }

extern "C" int rwkv_cuda_devices(char* text, int size) {
  try {
    return count_devices(text, size);
  } catch (const std::exception& error) {
    std::snprintf(text, static_cast<size_t>(size), "%s", error.what());
    return 0;
  }
}

extern "C" void rwkv_cuda_device_id(int device, char* text, int size) {
  try {
    std::snprintf(text, static_cast<size_t>(size), "%s", device_id(device).c_str());
  } catch (const std::exception&) {
    text[0] = 0;
  }
}

extern "C" void rwkv_cuda_select(int device) {
  rwkv::device::check(cudaSetDevice(device), "cudaSetDevice");
}

extern "C" std::byte* rwkv_cuda_shared_memory(int64_t bytes) {
  void* p = nullptr;
  const auto flags = cudaHostAllocPortable | cudaHostAllocMapped;
  const cudaError_t code = cudaHostAlloc(&p, static_cast<size_t>(bytes), flags);
  return code == cudaSuccess ? static_cast<std::byte*>(p) : nullptr;
}
