// Enough of CUDA's run time to run the NCCL communicator without a GPU: a stream is a thread that
// carries out what it is given in order, so that work without an order between streams is a race.
// The default stream is each calling thread's own: ranks are threads here, not processes.
#pragma once

#include <functional>

#include "core/base/memory.h"

namespace rwkv::fake {

// Memory whose copies run on fake streams.
const Memory& device_memory();

// Given to the stream as a kernel is. `stream` is Stream::native.
void launch(void* stream, std::function<void()> kernel);

}  // namespace rwkv::fake
