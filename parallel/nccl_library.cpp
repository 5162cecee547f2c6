#include "parallel/nccl_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace rwkv {
namespace {

using VersionEntry = void (*)(char* text, int size);

std::string library_path() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path().parent_path() / "lib" / "librwkv_nccl.so").string();
}

std::string last_error() {
  const char* text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

NcclLibrary open_library() {
  NcclLibrary library;
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
  const auto make = reinterpret_cast<decltype(library.make)>(dlsym(handle, "rwkv_nccl_make"));
  const auto version = reinterpret_cast<VersionEntry>(dlsym(handle, "rwkv_nccl_version"));
  if (make == nullptr || version == nullptr) {
    library.why = path + ": of another version: " + last_error();
    return library;
  }
  char text[64] = {};
  version(text, sizeof text);
  library.version = text;
  library.make = make;
  return library;
}

}  // namespace

const NcclLibrary& nccl_library() {
  static const NcclLibrary library = open_library();
  return library;
}

std::unique_ptr<Communicator> make_nccl(Communicator& control, const NcclSettings& settings) {
  const NcclLibrary& library = nccl_library();
  if (library.make == nullptr) throw CommError("no NCCL: " + library.why);
  return std::unique_ptr<Communicator>(library.make(control, settings));
}

}  // namespace rwkv
