// libFuzzer target: any bytes, as an archive and as the pickle inside one, end in a result or an
// InputError. Build: clang++ -fsanitize=fuzzer,address,undefined with core/io and core/base.
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/error.h"
#include "core/io/pth_state.h"
#include "core/io/tensor_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    rwkv::parse_pth(bytes, "fuzz");
  } catch (const rwkv::InputError&) {
  }
  try {
    rwkv::read_state_dict(bytes, "fuzz");
  } catch (const rwkv::InputError&) {
  }
  return 0;
}
