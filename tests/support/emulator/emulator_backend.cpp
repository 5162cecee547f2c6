#include "tests/support/emulator/emulator_backend.h"

#include "kernels/cuda/table.h"

namespace rwkv::test {

const Backend& emulator_backend() {
  static const Backend table = cuda::make_table("cuda emulator", "fibers");
  return table;
}

}  // namespace rwkv::test
