// The golden trajectory, step by step, with any backend and any parameter table: the whole training
// recipe in a few lines, and the place where planted mistakes must show.
#pragma once

#include "core/plan/param_table.h"
#include "tests/support/model_run.h"

namespace rwkv::test {

struct TrajectoryResult {
  double worst_loss = 0;    // largest |loss - golden| over the steps
  double worst_norm = 0;    // largest relative difference of the gradient norms
  double worst_lr = 0;      // largest relative difference of the learning rates
  double worst_tensor = 0;  // largest distance of a final tensor by norm
  std::string tensor;       // its name
};

// `table` may deviate from param_table(golden.model()): a planted mistake.
TrajectoryResult run_trajectory(const Golden&, const Backend&, Precision,
                                const std::vector<ParamSpec>& table, int64_t steps);

}  // namespace rwkv::test
