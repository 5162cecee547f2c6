#include "kernels/cuda_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace rwkv {
namespace {

// What the library exports, in C.
using BackendEntry = const Backend* (*)();
using DevicesEntry = int (*)(char* text, int size);  // their number, and a text about it
using SelectEntry = void (*)(int device);
using SharedEntry = std::byte* (*)(int64_t bytes);

std::string library_path() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path().parent_path() / "lib" / "librwkv_cuda.so").string();
}

std::string last_error() {
  const char* text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

CudaLibrary open_library() {
  CudaLibrary library;
  const std::string path = library_path();
  if (!std::filesystem::exists(path)) {
    library.why = "not in this build: there is no " + path;
    return library;
  }
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.why = last_error();
    return library;
  }
  const auto backend = reinterpret_cast<BackendEntry>(dlsym(handle, "rwkv_cuda_backend"));
  const auto devices = reinterpret_cast<DevicesEntry>(dlsym(handle, "rwkv_cuda_devices"));
  library.select = reinterpret_cast<SelectEntry>(dlsym(handle, "rwkv_cuda_select"));
  library.shared_memory = reinterpret_cast<SharedEntry>(dlsym(handle, "rwkv_cuda_shared_memory"));
  if (backend == nullptr || devices == nullptr || library.select == nullptr ||
      library.shared_memory == nullptr) {
    library.why = path + ": of another version: " + last_error();
    return library;
  }
  char text[256] = {};
  library.devices = devices(text, sizeof text);
  (library.devices > 0 ? library.device : library.why) = text;
  library.backend = backend();
  return library;
}

}  // namespace

const CudaLibrary& cuda_library() {
  static const CudaLibrary library = open_library();
  return library;
}

}  // namespace rwkv
