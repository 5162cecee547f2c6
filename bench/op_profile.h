// A backend's table with a clock around each op: what a step's time is spent on. Ops wait for the
// device, so that the sum is more than a step that overlaps them.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "kernels/backend.h"

namespace rwkv::bench {

struct OpTime {
  double seconds = 0;
  int64_t calls = 0;
};

// One at a time in a process.
class OpProfile {
 public:
  explicit OpProfile(const Backend& ops);
  const Backend& ops() const { return table_; }
  const std::map<std::string, OpTime>& times() const;
  void clear();

 private:
  Backend table_;
};

}  // namespace rwkv::bench
