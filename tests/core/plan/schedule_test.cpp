// The learning rate against values worked out by hand.
#include "core/plan/schedule.h"

#include <gtest/gtest.h>

namespace rwkv {
namespace {

OptimizerConfig config(const std::string& schedule, int64_t warmup) {
  OptimizerConfig out;
  out.lr = 1.0;
  out.lr_final = 0.2;
  out.schedule = schedule;
  out.warmup = warmup;
  return out;
}

struct Value {
  const char* schedule;
  int64_t warmup, step, steps;
  double lr;
};

TEST(LearningRate, FollowsTheFormula) {
  // Cosine: 0.6 + 0.4 cos(pi q); linear: 1 - 0.8 q; q = (step - warmup) / (steps - warmup).
  const double half = 0.70710678118654752;  // cos(pi / 4)
  const std::vector<Value> values = {
      {"cosine", 0, 0, 8, 1.0},
      {"cosine", 0, 2, 8, 0.6 + 0.4 * half},
      {"cosine", 0, 4, 8, 0.6},
      {"cosine", 0, 6, 8, 0.6 - 0.4 * half},
      {"cosine", 0, 8, 8, 0.2},
      {"cosine", 0, 100, 8, 0.2},  // beyond the end
      {"cosine", 4, 0, 12, 0.01},  // warm-up: 0.01 + 0.99 s / 4
      {"cosine", 4, 1, 12, 0.2575},
      {"cosine", 4, 3, 12, 0.7525},
      {"cosine", 4, 4, 12, 1.0},
      {"cosine", 4, 8, 12, 0.6},
      {"linear", 0, 2, 8, 0.8},
      {"linear", 4, 2, 12, 0.505},
      {"linear", 4, 6, 12, 0.8},
      {"linear", 4, 12, 12, 0.2},
      {"constant", 0, 7, 8, 1.0},
      {"constant", 4, 1, 8, 0.2575},
      {"constant", 4, 100, 8, 1.0},
      {"cosine", 4, 3, 4, 0.7525},        // a warm-up as long as the run: q is 0
      {"cosine", 10, 5, 4, 0.2 * 0.505},  // a warm-up longer than the run: q is 1
  };
  for (const Value& v : values) {
    EXPECT_NEAR(learning_rate(config(v.schedule, v.warmup), v.step, v.steps), v.lr, 1e-15)
        << v.schedule << " warm-up " << v.warmup << " step " << v.step << " of " << v.steps;
  }
}

TEST(LearningRate, ScalesWithTheRecipesValue) {
  OptimizerConfig c = config("cosine", 0);
  c.lr = 6e-4;
  c.lr_final = 6e-5;
  EXPECT_NEAR(learning_rate(c, 50, 100), 6e-4 * 0.55, 1e-18);
  c.lr_final = 6e-4;
  EXPECT_NEAR(learning_rate(c, 50, 100), 6e-4, 1e-18);
}

}  // namespace
}  // namespace rwkv
