#include "parallel/nccl_library.h"

#include "core/base/shared_library.h"

namespace rwkv {
namespace {

using VersionEntry = void (*)(char* text, int size);

NcclLibrary open_library() {
  SharedLibrary file("librwkv_nccl.so");
  NcclLibrary library;
  const auto make = file.find<decltype(library.make)>("rwkv_nccl_make");
  const auto version = file.find<VersionEntry>("rwkv_nccl_version");
  library.why = file.why();
  if (!library.why.empty()) return library;
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
