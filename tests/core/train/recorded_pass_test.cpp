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

// On the backend that records, its counts at zero.
class RecordingTrainer {
 public:
  explicit RecordingTrainer(const Recipe& recipe, bool scales_loss = false)
      : self_(make_self()), trainer_(recipe, machine_for(recipe, scales_loss), *self_) {
    recording_counts() = {};
  }
  Trainer* operator->() { return &trainer_; }

 private:
  static Machine machine_for(const Recipe& recipe, bool scales_loss) {
    Machine machine = one_thread(recipe);
    machine.ops = &recording_backend();
    machine.scales_loss = scales_loss;
    return machine;
  }

  std::unique_ptr<Communicator> self_;
  Trainer trainer_;
};

Steps train(const Recipe& recipe, int steps) {
  Steps out;
  RecordingTrainer trainer(recipe);
  for (int64_t step = 0; step < steps; ++step) {
    const int before = recording_counts().direct;
    StepRow row;
    trainer->train_step(step, row);
    out.losses.push_back(row.loss);
    out.direct.push_back(recording_counts().direct - before);
  }
  out.hash = trainer->store().hash();
  return out;
}

Recipe recipe_with(const std::string& graphs, const std::string& more = "train.recompute=none") {
  return small_recipe(
      {"precision=fp32", "parallel.reduction=fast", "parallel.graphs=" + graphs, more});
}

TEST(RecordedPass, GivesTheSameBits) {
  // All sequences in one pass, in which case the batch lies where it did; or several.
  for (const char* more : {"train.micro_batch=5", "train.micro_batch=2", "train.recompute=block"}) {
    const Steps wanted = train(recipe_with("off", more), 4);
    EXPECT_EQ(recording_counts().recorded, 0) << more;
    const Steps got = train(recipe_with("on", more), 4);
    EXPECT_EQ(got.losses, wanted.losses) << more;
    EXPECT_EQ(got.hash, wanted.hash) << more;
    EXPECT_EQ(recording_counts().alive, 0) << more;
  }
}

TEST(RecordedPass, FromTheSecondStepOnOnlyTheUpdateIsIssued) {
  const Steps got = train(recipe_with("on", "train.micro_batch=5"), 4);
  EXPECT_EQ(recording_counts().recorded, 1);
  EXPECT_EQ(recording_counts().runs, 3);
  EXPECT_GT(got.direct[0], 50);
  EXPECT_LT(got.direct[1], 10);
  EXPECT_EQ(got.direct[3], got.direct[1]);
}

TEST(RecordedPass, AutoTakesSmallPasses) {
  train(recipe_with("auto", "train.micro_batch=5"), 2);
  EXPECT_EQ(recording_counts().recorded, 1);
}

TEST(RecordedPass, ExactIsNotRecorded) {
  train(small_recipe({"precision=fp32", "parallel.reduction=exact", "parallel.graphs=on"}), 3);
  EXPECT_EQ(recording_counts().recorded, 0);
}

TEST(RecordedPass, AnotherScaleIsRecordedAnew) {
  const Recipe recipe = recipe_with("on", "train.micro_batch=5");
  RecordingTrainer trainer(recipe, true);
  StepRow row;
  for (int64_t step = 0; step < 6; ++step) {
    if (step == 3) trainer->set_loss_scale({.exponent = 3});
    trainer->train_step(step, row);
  }
  EXPECT_EQ(recording_counts().recorded, 2);
  EXPECT_EQ(recording_counts().runs, 4);
}

TEST(RecordedPass, WhatCannotBeRecordedIsDropped) {
  const Recipe recipe = recipe_with("on", "train.micro_batch=5");
  RecordingTrainer trainer(recipe);
  StepRow row;
  trainer->train_step(0, row);
  recording_counts().refuses = true;
  EXPECT_THROW(trainer->train_step(1, row), Error);
  EXPECT_EQ(recording_counts().alive, 0);
}

}  // namespace
}  // namespace rwkv
