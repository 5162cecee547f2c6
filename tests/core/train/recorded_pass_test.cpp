// Passes that are recorded and run again: the same numbers, and nothing issued beside them.
#include "core/model/recorded_pass.h"

#include <gtest/gtest.h>

#include "tests/core/train/train_test_support.h"
#include "tests/support/recording_backend.h"

namespace rwkv {
namespace {

using namespace test;

struct Steps {
  std::vector<double> losses;
  std::vector<int> direct;  // ops issued at once, a step
  uint64_t hash = 0;
};

Steps train(const Recipe& recipe, const Backend& ops, int steps) {
  Steps out;
  const auto self = make_self();
  Machine machine = one_thread(recipe);
  machine.ops = &ops;
  Trainer trainer(recipe, machine, *self);
  for (int64_t step = 0; step < steps; ++step) {
    const int before = recording_counts().direct;
    StepRow row;
    trainer.train_step(step, row);
    out.losses.push_back(row.loss);
    out.direct.push_back(recording_counts().direct - before);
  }
  out.hash = trainer.store().hash();
  return out;
}

Recipe recipe_with(const std::string& graphs, const std::string& more = "train.recompute=none") {
  return small_recipe(
      {"precision=fp32", "parallel.reduction=fast", "parallel.graphs=" + graphs, more});
}

TEST(RecordedPass, GivesTheSameBits) {
  // All sequences in one pass, in which case the batch lies where it did; or several.
  for (const char* more : {"train.micro_batch=5", "train.micro_batch=2", "train.recompute=block"}) {
    recording_counts() = {};
    const Steps wanted = train(recipe_with("off", more), recording_backend(), 4);
    EXPECT_EQ(recording_counts().recorded, 0) << more;
    const Steps got = train(recipe_with("on", more), recording_backend(), 4);
    EXPECT_EQ(got.losses, wanted.losses) << more;
    EXPECT_EQ(got.hash, wanted.hash) << more;
    EXPECT_EQ(recording_counts().alive, 0) << more;
  }
}

TEST(RecordedPass, FromTheSecondStepOnOnlyTheUpdateIsIssued) {
  recording_counts() = {};
  const Steps got = train(recipe_with("on", "train.micro_batch=5"), recording_backend(), 4);
  EXPECT_EQ(recording_counts().recorded, 1);
  EXPECT_EQ(recording_counts().runs, 3);
  EXPECT_GT(got.direct[0], 50);
  EXPECT_LT(got.direct[1], 10);
  EXPECT_EQ(got.direct[3], got.direct[1]);
}

TEST(RecordedPass, AutoTakesSmallPasses) {
  recording_counts() = {};
  train(recipe_with("auto", "train.micro_batch=5"), recording_backend(), 2);
  EXPECT_EQ(recording_counts().recorded, 1);
}

TEST(RecordedPass, ExactIsNotRecorded) {
  recording_counts() = {};
  train(small_recipe({"precision=fp32", "parallel.reduction=exact", "parallel.graphs=on"}),
        recording_backend(), 3);
  EXPECT_EQ(recording_counts().recorded, 0);
}

TEST(RecordedPass, AnotherScaleIsRecordedAnew) {
  recording_counts() = {};
  const Recipe recipe = recipe_with("on", "train.micro_batch=5");
  const auto self = make_self();
  Machine machine = one_thread(recipe);
  machine.ops = &recording_backend();
  machine.scales_loss = true;
  Trainer trainer(recipe, machine, *self);
  StepRow row;
  for (int64_t step = 0; step < 6; ++step) {
    if (step == 3) trainer.set_loss_scale({.exponent = 3});
    trainer.train_step(step, row);
  }
  EXPECT_EQ(recording_counts().recorded, 2);
  EXPECT_EQ(recording_counts().runs, 4);
}

TEST(RecordedPass, WhatCannotBeRecordedIsDropped) {
  recording_counts() = {};
  const Recipe recipe = recipe_with("on", "train.micro_batch=5");
  const auto self = make_self();
  Machine machine = one_thread(recipe);
  machine.ops = &recording_backend();
  Trainer trainer(recipe, machine, *self);
  StepRow row;
  trainer.train_step(0, row);
  recording_counts().refuses = true;
  EXPECT_THROW(trainer.train_step(1, row), Error);
  EXPECT_EQ(recording_counts().alive, 0);
}

}  // namespace
}  // namespace rwkv
