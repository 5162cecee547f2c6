// The CUDA kernels' own code on the host (device_backend.h), as a backend.
#pragma once

#include "kernels/backend.h"

namespace rwkv::test {

const Backend& emulator_backend();

}  // namespace rwkv::test
