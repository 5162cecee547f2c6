// Ranks of which only the clocks exist: a communicator of a given latency and bandwidth, to
// forecast how long a step takes on a mesh that is not there.
//
// Messages cost latency + bytes / bandwidth, whatever else is on the way; a rank that waits does
// nothing else. Gathers and reductions go as rings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rwkv {

struct Link {
  double latency = 0;           // seconds, one message of a few bytes
  double bytes_per_second = 0;  // of one rank to another
};

class SimulatedRanks {
 public:
  SimulatedRanks(int ranks, const Link&);

  int size() const { return static_cast<int>(clocks_.size()); }
  double clock(int rank) const { return clocks_[static_cast<size_t>(rank)]; }
  double latest() const;
  // Seconds that the rank with the most work has computed.
  double most_computed() const;

  void compute(int rank, double seconds) {
    clocks_[static_cast<size_t>(rank)] += seconds;
    computed_[static_cast<size_t>(rank)] += seconds;
  }
  // When a message that `from` sends now is there.
  double arrival(int from, int64_t bytes) const { return clock(from) + seconds(bytes); }
  void wait(int rank, double until);

  // When a gather among `ranks` is done that the last of them began at `begun`, `bytes` a shard.
  double gathered(double begun, int64_t bytes, int ranks) const;
  // All ranks leave together.
  void all_reduce(int64_t bytes);

 private:
  double seconds(int64_t bytes) const {
    return link_.latency + static_cast<double>(bytes) / link_.bytes_per_second;
  }

  Link link_;
  std::vector<double> clocks_, computed_;
};

}  // namespace rwkv
