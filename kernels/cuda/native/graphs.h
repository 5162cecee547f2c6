// CUDA graphs as a backend's recordings.
#pragma once

#include "kernels/recording.h"

namespace rwkv::device {

const Recording& graphs();

}  // namespace rwkv::device
