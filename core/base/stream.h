// Where work runs. On a CPU a stream runs each call at once, over `threads` threads; on a device
// calls follow one another on its own stream.
#pragma once

namespace rwkv {

struct Stream {
  int threads = 1;
  void* native = nullptr;  // the device's own; nullptr: its default one

  void sync() const {}
};

}  // namespace rwkv
