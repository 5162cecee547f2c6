// Where work runs. On a CPU a stream runs each call at once, over `threads` threads.
#pragma once

namespace rwkv {

struct Stream {
  int threads = 1;

  void sync() const {}
};

}  // namespace rwkv
