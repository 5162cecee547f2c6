#include "kernels/cuda_library.h"

#include "core/base/shared_library.h"

namespace rwkv {
namespace {

constexpr const char* kFile = "librwkv_cuda.so";

// What the library exports, in C.
using BackendEntry = const Backend* (*)();
using DevicesEntry = int (*)(char* text, int size);  // their number, and a text about it
using IdEntry = void (*)(int device, char* text, int size);
using SelectEntry = void (*)(int device);
using SharedEntry = std::byte* (*)(int64_t bytes);

CudaLibrary open_library() {
  SharedLibrary file(kFile);
  CudaLibrary library;
  const auto backend = file.find<BackendEntry>("rwkv_cuda_backend");
  const auto devices = file.find<DevicesEntry>("rwkv_cuda_devices");
  const auto id = file.find<IdEntry>("rwkv_cuda_device_id");
  library.select = file.find<SelectEntry>("rwkv_cuda_select");
  library.shared_memory = file.find<SharedEntry>("rwkv_cuda_shared_memory");
  library.why = file.why();
  if (!library.why.empty()) return library;
  char text[256] = {};
  library.devices = devices(text, sizeof text);
  (library.devices > 0 ? library.device : library.why) = text;
  library.backend = backend();
  for (int d = 0; d < library.devices; ++d) {
    id(d, text, sizeof text);
    library.ids.emplace_back(text);
  }
  return library;
}

}  // namespace

bool has_cuda_library() { return SharedLibrary::exists(kFile); }

const CudaLibrary& cuda_library() {
  static const CudaLibrary library = open_library();
  return library;
}

}  // namespace rwkv
