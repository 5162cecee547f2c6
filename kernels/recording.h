// A device that can keep what many calls issue, and run it again by one (CUDA: a graph): for passes
// whose kernels are shorter than the time that it takes to issue them.
#pragma once

#include "core/base/stream.h"

namespace rwkv {

// From one thread a device.
struct Recording {
  // The native stream to issue on from now on; what is issued there does not run.
  void* (*begin)();
  // What was issued since, ready to run; views and numbers of the calls are part of it. good:
  // false: it is dropped, and nullptr comes back.
  void* (*end)(void* native, bool good);
  // After what the stream was given before.
  void (*run)(const Stream&, void* recorded);
  void (*release)(void* recorded);
};

}  // namespace rwkv
