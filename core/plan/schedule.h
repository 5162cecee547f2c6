// Learning rate of a step.
#pragma once

#include "core/config/recipe.h"

namespace rwkv {

// step is 0-based and global, also after a resume. With q = clip((step - W) / (steps - W), 0, 1)
// and f = lr_final / lr: cosine lr ((1/2 + f/2) + (1/2 - f/2) cos(pi q)), linear lr (1 - q + f q),
// or constant lr; while step < W times 0.01 + 0.99 step / W.
double learning_rate(const OptimizerConfig&, int64_t step, int64_t steps);

}  // namespace rwkv
