// Where work runs. On a CPU a stream runs each call at once, over `threads` threads; on a device
// calls follow one another on its own stream.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkv {

struct Stream {
  int threads = 1;
  void* native = nullptr;  // the device's own; nullptr: its default one
  // The device's memory that a call may use until it is over.
  std::byte* scratch = nullptr;
  int64_t scratch_bytes = 0;
};

}  // namespace rwkv
