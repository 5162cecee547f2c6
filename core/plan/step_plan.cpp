#include "core/plan/step_plan.h"

#include <algorithm>

namespace rwkv {

std::vector<Action> plan_step(int64_t share, int64_t micro_batch, bool exact) {
  std::vector<Action> plan;
  for (int64_t first = 0; first < share; first += micro_batch) {
    plan.push_back({Phase::kForwardBackward, first, std::min(micro_batch, share - first)});
  }
  if (exact) plan.push_back({Phase::kScale});
  plan.push_back({Phase::kReduce});
  plan.push_back({Phase::kUpdate});
  return plan;
}

}  // namespace rwkv
