// A backend whose tensors live behind walls (walled_memory.h), which are open while one of its ops
// runs: what a GPU's memory is to the host, on a machine without a GPU.
#pragma once

#include "kernels/backend.h"

namespace rwkv::test {

// The CPU backend's ops on walled memory.
const Backend& walled_backend();

}  // namespace rwkv::test
