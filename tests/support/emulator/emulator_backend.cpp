#include "tests/support/emulator/emulator_backend.h"

#include "kernels/cuda/table.h"

namespace rwkv::test {

const Backend& emulator_backend() {
  static const Backend table = cuda::make_table("cuda emulator", "fibers");
  return table;
}

EmulatedDevice::EmulatedDevice(int64_t multiprocessors, int64_t block_shared_bytes, uint64_t seed,
                               int64_t room)
    : multiprocessors_before_(device::multiprocessors()),
      bytes_before_(device::block_shared_bytes()),
      room_before_(device::room({})) {
  device::device_size() = {multiprocessors, block_shared_bytes, room};
  device::shuffle_threads(seed);
}
EmulatedDevice::~EmulatedDevice() {
  device::device_size() = {multiprocessors_before_, bytes_before_, room_before_};
}

}  // namespace rwkv::test
