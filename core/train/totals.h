// What ranks add up in a step or an evaluation, in one small all-reduce of integers: the sums have
// the same bits for any number of ranks and any order.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "core/base/fixed_point.h"
#include "kernels/token_sum.h"
#include "parallel/communicator.h"

namespace rwkv {

class Totals {
 public:
  explicit Totals(size_t skills) : asked(skills), answered(skills) {}

  // Adds weight * loss over (rows, T) of a micro-batch, a leaf at a time (0: a row).
  void add(const ConstTensor& loss, const ConstTensor& weight, int64_t leaf = 0);
  // True nats of a sample's targets; NaN where the source does not know them.
  void add_nats(double nats) { nats_.add(nats); }
  void clear();
  // Collective.
  void reduce(Communicator&);

  double loss() const { return loss_.value(); }      // sum of weight times nats
  double weight() const { return weight_.value(); }  // sum of weights
  double nats() const { return nats_.value(); }
  double mean_loss() const { return loss() / weight(); }
  double floor() const { return nats() / weight(); }

  double answered_share(size_t skill) const {
    return static_cast<double>(answered[skill]) / static_cast<double>(asked[skill]);
  }

  int64_t stop = 0;                      // ranks that were asked to stop
  int64_t exchanged = 0;                 // bytes sent between the segments of sequences
  std::vector<int64_t> asked, answered;  // a skill

 private:
  OrderFreeSum loss_, weight_, nats_;
  std::vector<int64_t> packed_;  // kept from reduction to reduction
};

}  // namespace rwkv
