// The GPU's memory as a table (core/base/memory.h).
#pragma once

#include "core/base/memory.h"

namespace rwkv::device {

const Memory& device_memory();

}  // namespace rwkv::device
