// How long a step will take on a mesh: the step's plan carried out on simulated ranks.
#pragma once

#include <string>

#include "core/model/sequence_plan.h"
#include "parallel/simulated_ranks.h"

namespace rwkv {

// What a machine does, measured by calibrate() (core/train/calibration.h) for one model and
// precision. Seconds of one rank.
struct Calibration {
  double forward = 0;   // a token through all blocks
  double head = 0;      // a token's loss
  double backward = 0;  // a token through head and blocks
  double update = 0;    // a parameter
  Link link;
  double flops_per_token = 0;  // of the model that was measured
  double parameters = 0;
  double cores_a_rank = 1;  // when it was measured
  int64_t cores = 1;        // of this host
};
std::string to_json(const Calibration&);
// Throws InputError naming `path`.
Calibration parse_calibration(const std::string& text, const std::string& path);

struct Forecast {
  double seconds = 0;    // a step
  double compute = 0;    // of it, the rank that computes longest
  double gradients = 0;  // of it, their reduction
  double update = 0;
  double waiting() const { return seconds - compute - gradients - update; }
};

struct ForecastInput {
  SequencePlan plan;
  ExchangeLayout layout;
  int data = 1;
  int64_t passes = 1;  // micro-batches a rank
  bool recompute = false;
  int64_t gradient_bytes = 0;
  double flops_per_token = 0, parameters = 0;
  double cores_a_rank = 1;  // below 1: ranks take turns
};
Forecast forecast_step(const ForecastInput&, const Calibration&);

}  // namespace rwkv
