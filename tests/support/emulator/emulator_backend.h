// The CUDA kernels' own code on the host (device_backend.h), as a backend.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace rwkv::test {

const Backend& emulator_backend();

// While it lives, kernels that this thread launches find a device of another size, and their
// threads take turns in an order of their own.
class EmulatedDevice {
 public:
  EmulatedDevice(int64_t multiprocessors, int64_t block_shared_bytes, uint64_t seed);
  ~EmulatedDevice();
  EmulatedDevice(const EmulatedDevice&) = delete;
  EmulatedDevice& operator=(const EmulatedDevice&) = delete;

 private:
  int64_t multiprocessors_before_, bytes_before_;
};

}  // namespace rwkv::test
