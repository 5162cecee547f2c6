// The CUDA kernels' own code on the host (device_backend.h), as a backend.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace rwkv::test {

const Backend& emulator_backend();

// While it lives, kernels that this thread launches find a device of another size and a stream with
// so much scratch, and their threads take turns in an order of their own.
class EmulatedDevice {
 public:
  EmulatedDevice(int64_t multiprocessors, int64_t block_shared_bytes, uint64_t seed,
                 int64_t room = int64_t{64} << 20);
  ~EmulatedDevice();
  EmulatedDevice(const EmulatedDevice&) = delete;
  EmulatedDevice& operator=(const EmulatedDevice&) = delete;

 private:
  int64_t multiprocessors_before_, bytes_before_, room_before_;
};

}  // namespace rwkv::test
