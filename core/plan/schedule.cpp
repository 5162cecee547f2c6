#include "core/plan/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rwkv {

double learning_rate(const OptimizerConfig& config, int64_t step, int64_t steps) {
  const auto s = static_cast<double>(step), warmup = static_cast<double>(config.warmup);
  const double length = static_cast<double>(steps) - warmup;
  // Without a length the formula has its limits: 0 before the end, 1 behind it.
  double q = length == 0 && s < warmup ? 0 : 1;
  if (length > 0) q = std::clamp((s - warmup) / length, 0.0, 1.0);
  const double f = config.lr_final / config.lr;
  double factor = 1;
  if (config.schedule == "cosine") {
    factor = (0.5 + f / 2) + (0.5 - f / 2) * std::cos(std::numbers::pi * q);
  } else if (config.schedule == "linear") {
    factor = 1 - q + f * q;
  }
  const double ramp = s < warmup ? 0.01 + 0.99 * s / warmup : 1;
  return config.lr * factor * ramp;
}

}  // namespace rwkv
