#include "core/plan/loss_scale.h"

#include <gtest/gtest.h>

namespace rwkv {
namespace {

TEST(LossScale, FallsAtOnceAndRisesAfterManyGoodSteps) {
  LossScale scale;
  EXPECT_EQ(scale.scale(), 256);
  EXPECT_TRUE(scale.lower());
  EXPECT_EQ(scale.scale(), 128);
  for (int64_t i = 0; i + 1 < LossScale::kGrowAfter; ++i) scale.succeed();
  EXPECT_EQ(scale.scale(), 128);
  scale.succeed();
  EXPECT_EQ(scale.scale(), 256);
  EXPECT_EQ(scale.good, 0);
}

TEST(LossScale, AnOverflowBeginsTheCountAnew) {
  LossScale scale;
  for (int64_t i = 0; i + 1 < LossScale::kGrowAfter; ++i) scale.succeed();
  EXPECT_TRUE(scale.lower());
  scale.succeed();
  EXPECT_EQ(scale.scale(), 128);
}

TEST(LossScale, HasEnds) {
  LossScale scale{.exponent = LossScale::kLeast + 1};
  EXPECT_TRUE(scale.lower());
  EXPECT_EQ(scale.scale(), 1.0 / 256);
  EXPECT_FALSE(scale.lower());
  EXPECT_EQ(scale.scale(), 1.0 / 256);
  scale = {.exponent = LossScale::kMost, .good = LossScale::kGrowAfter - 1};
  scale.succeed();
  EXPECT_EQ(scale.exponent, LossScale::kMost);
}

}  // namespace
}  // namespace rwkv
