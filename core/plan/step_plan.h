// A training step as a list of actions, carried out by one short interpreter in
// core/train/trainer.cpp.
#pragma once

#include <cstdint>
#include <vector>

namespace rwkv {

enum class Phase : uint8_t {
  kForwardBackward,  // one micro-batch: load, forward, loss, backward
  kScale,            // exact sums: do all terms fit? If not, the step starts again with new scales
  kReduce,           // sum gradients and totals over all ranks
  kUpdate,           // clip and optimizer
};

struct Action {
  Phase phase;
  int64_t first = 0, count = 0;  // samples of the rank's share, for kForwardBackward
};

// `share` samples in passes of at most `micro_batch`.
std::vector<Action> plan_step(int64_t share, int64_t micro_batch, bool exact);

}  // namespace rwkv
