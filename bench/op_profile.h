// A backend's table with a clock around each op: what a step's time is spent on, beside the least
// that the device would need for it. Ops wait for the device, so that the sum is more than a step
// that overlaps them.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "bench/op_cost.h"
#include "kernels/backend.h"

namespace rwkv::bench {

struct OpTime {
  double seconds = 0;
  double roof = 0;  // seconds at least: by arithmetic or by memory, call by call
  int64_t calls = 0;
};

// One at a time in a process.
class OpProfile {
 public:
  OpProfile(const Backend& ops, const Roof& roof);
  const Backend& ops() const { return table_; }
  const std::map<std::string, OpTime>& times() const;
  void clear();

 private:
  Backend table_;
};

}  // namespace rwkv::bench
