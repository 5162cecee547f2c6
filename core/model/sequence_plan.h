// How whole sequences run on the ranks that share them. Pure.
#pragma once

#include <string>

#include "core/model/model.h"
#include "core/plan/segment_plan.h"

namespace rwkv {

struct SequencePlan {
  ModelPlan
      model;  // of whole sequences: batch and tokens those of a micro-batch; edges are not read
  SegmentPlan segments;
  Handing handing;
  ExchangeKind exchange = {};  // parallel.exchange
  std::string stash = "all";   // train.stash
  bool enters = false;         // a state enters the sequence: of hand-off state, overlap < chunk
  bool leaves = false;         // the state behind the last token is wanted
  bool records = false;        // passes over whole sequences are recorded, where the device can

  bool whole() const { return segments.ranks == 1 && segments.segments() == 1 && !enters; }
  // Groups whose boundaries are stashed at a time; spans of that many groups.
  int64_t span() const;
  int64_t spans() const { return (segments.groups() + span() - 1) / span(); }
  // Forward passes over all tokens that a step takes (without recomputation in blocks).
  int forward_passes() const;
};

// What is exchanged in each layer of each group; nothing when `handing` says so.
ExchangeLayout exchange_layout(const SequencePlan&, const ModelConfig&);

// What one forward and backward pass over a micro-batch sends for segments' states, rows and their
// gradients, all layers.
struct Traffic {
  int64_t bytes = 0;     // that one rank sends (Communicator::sent_bytes())
  int64_t messages = 0;  // that must follow one another on the longest way through the ranks
};
Traffic plan_traffic(const SequencePlan&, const ExchangeLayout&, int rank);

}  // namespace rwkv
