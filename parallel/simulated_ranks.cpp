#include "parallel/simulated_ranks.h"

#include <algorithm>

namespace rwkv {

SimulatedRanks::SimulatedRanks(int ranks, const Link& link)
    : link_(link), clocks_(static_cast<size_t>(ranks), 0.0), computed_(clocks_) {}

double SimulatedRanks::latest() const { return *std::ranges::max_element(clocks_); }

double SimulatedRanks::most_computed() const { return *std::ranges::max_element(computed_); }

void SimulatedRanks::wait(int rank, double until) {
  double& clock = clocks_[static_cast<size_t>(rank)];
  clock = std::max(clock, until);
}

double SimulatedRanks::gathered(double begun, int64_t bytes, int ranks) const {
  return begun + (ranks - 1) * seconds(bytes);
}

void SimulatedRanks::all_reduce(int64_t bytes) {
  if (size() == 1) return;
  const double end = latest() + 2 * (size() - 1) * seconds(bytes / size());
  for (int rank = 0; rank < size(); ++rank) wait(rank, end);
}

}  // namespace rwkv
