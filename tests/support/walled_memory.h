// Memory that stands for a device's on a machine without one: pages that nobody may touch, so that
// a read or a write from the host ends the process there (SIGSEGV). Its own copy and zero open what
// they need; OpenWalls opens all of it for the time of a kernel. Calls may come from many threads;
// walls that one of them holds open are open for all.
#pragma once

#include <cstdint>

#include "core/base/memory.h"

namespace rwkv {

// Allocations are whole pages, with a page behind them that is never opened. Copies and zeros that
// leave an allocation throw Error. Streams are done with what they are given when a call returns.
const Memory& walled_memory();

// Calls nest; each open_walls() needs its close_walls().
void open_walls();
void close_walls();

class OpenWalls {
 public:
  OpenWalls() { open_walls(); }
  ~OpenWalls() { close_walls(); }
  OpenWalls(const OpenWalls&) = delete;
  OpenWalls& operator=(const OpenWalls&) = delete;
};

// What available() answers from now on (at first -1: not known). It limits no allocation.
void set_walled_available(int64_t bytes);

// Since the start of the process.
struct WalledCounts {
  int64_t allocations = 0, live_bytes = 0;  // bytes as they were asked for
  int64_t copies = 0, zeros = 0;            // calls of the table
};
WalledCounts walled_counts();

// Whether the address lies in an allocation.
bool is_walled(const void*);

}  // namespace rwkv
