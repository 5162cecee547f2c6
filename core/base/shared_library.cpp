#include "core/base/shared_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace rwkv {
namespace {

std::string last_error() {
  const char* text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

std::filesystem::path path_of(const std::string& file) {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return program.parent_path().parent_path() / "lib" / file;
}

}  // namespace

bool SharedLibrary::exists(const std::string& file) {
  return std::filesystem::exists(path_of(file));
}

SharedLibrary::SharedLibrary(const std::string& file) : path_(path_of(file).string()) {
  if (!std::filesystem::exists(path_)) {
    why_ = "not in this build: there is no " + path_;
    return;
  }
  handle_ = dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ == nullptr) why_ = last_error();
}

void* SharedLibrary::find_symbol(const char* symbol) {
  if (handle_ == nullptr) return nullptr;
  void* found = dlsym(handle_, symbol);
  if (found == nullptr && why_.empty()) why_ = path_ + ": of another version: " + last_error();
  return found;
}

}  // namespace rwkv
