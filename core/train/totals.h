// What ranks add up in a step or an evaluation, in one small all-reduce.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace rwkv {

struct Totals {
  explicit Totals(size_t skills) : asked(skills), answered(skills) {}

  double loss = 0;    // sum of weight times nats
  double weight = 0;  // sum of weights
  double nats = 0;    // true nats of the targets; NaN where the source does not know them
  double stop = 0;    // ranks that were asked to stop
  std::vector<double> asked, answered;  // a skill

  double mean_loss() const { return loss / weight; }
  double floor() const { return nats / weight; }
  // Adds weight * loss over (rows, T) of a micro-batch.
  void add(const Tensor& loss, const ConstTensor& weight);
  // Collective.
  void reduce(Communicator&);

 private:
  std::vector<double> packed_;  // kept from reduction to reduction
};

}  // namespace rwkv
