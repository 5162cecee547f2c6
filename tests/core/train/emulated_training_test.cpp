// Whole training steps with the CUDA kernels' own code, run by the emulator: the losses of the CPU
// in every type, and under exact reduction the same bits on every layout.
#include <gtest/gtest.h>

#include <mutex>

#include "tests/core/train/train_test_support.h"
#include "tests/support/emulator/emulator_backend.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

struct TrainedBits {
  std::vector<double> losses, norms;
  uint64_t hash = 0;
  int64_t state_bytes = 0;  // planned for saved states

  bool operator==(const TrainedBits&) const = default;
};

// Heads of 64, for which the recurrence runs in chunks in bf16.
Recipe recipe_with(std::vector<std::string> more) {
  more.insert(more.begin(),
              {"model.width=64", "model.head_size=64", "model.ffn_width=64",
               "model.lora_rank.decay=16", "model.lora_rank.iclr=16", "model.lora_rank.value=16",
               "model.lora_rank.gate=16", "train.context=32", "train.batch=2", "precision=fp32"});
  return small_recipe(more);
}

Machine emulated(const Recipe& recipe, DType compute) {
  Machine machine = one_thread(recipe);
  machine.ops = &emulator_backend();
  machine.precision.compute = compute;
  machine.scales_loss = compute == DType::kF16;
  return machine;
}

TrainedBits train(const Recipe& recipe, const Machine& machine, int ranks, int64_t steps) {
  TrainedBits out;
  std::mutex mutex;
  run_local(ranks, [&](Communicator& comm) {
    Trainer trainer(recipe, machine, comm);
    TrainedBits own;
    for (int64_t step = 0; step < steps; ++step) {
      StepRow row;
      trainer.train_step(step, row);
      own.losses.push_back(row.loss);
      own.norms.push_back(row.grad_norm);
    }
    own.hash = trainer.store().hash();
    for (const Arena::Entry& entry : trainer.memory()) {
      if (entry.name == "states") own.state_bytes += entry.bytes;
    }
    const std::lock_guard lock(mutex);
    if (comm.rank() == 0) out = own;
  });
  return out;
}

TEST(EmulatedTraining, LossesAreTheCpusInEveryType) {
  const Recipe recipe = recipe_with({"parallel.reduction=fast"});
  const TrainedBits want = train(recipe, one_thread(recipe), 1, 2);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    const TrainedBits got = train(recipe, emulated(recipe, type), 1, 2);
    for (size_t i = 0; i < want.losses.size(); ++i) {
      const double limit = type == DType::kF32 ? 1e-5 : 1e-2;
      EXPECT_NEAR(got.losses[i], want.losses[i], limit) << name_of(type) << " step " << i;
      EXPECT_NEAR(got.norms[i] / want.norms[i], 1, type == DType::kF32 ? 1e-4 : 3e-2)
          << name_of(type) << " step " << i;
    }
  }
}

TEST(EmulatedTraining, ExactHasTheSameBitsOnEveryLayout) {
  const std::vector<std::string> exact = {"parallel.reduction=exact", "parallel.leaf=16",
                                          "parallel.tile=16"};
  const DType type = DType::kBF16;
  TrainedBits want;
  for (const auto& [ranks, more] : std::vector<std::pair<int, std::vector<std::string>>>{
           {1, {"train.micro_batch=2"}},
           {1, {"train.micro_batch=1", "train.chunk=16"}},
           {2, {"parallel.sequence=2", "parallel.exchange=gather"}},
           {2, {"parallel.sequence=2", "parallel.exchange=ring", "train.recompute=block"}},
           {4, {"parallel.sequence=2", "parallel.data=2", "parallel.shard=optimizer"}}}) {
    std::vector<std::string> all = exact;
    all.insert(all.end(), more.begin(), more.end());
    const Recipe recipe = recipe_with(all);
    TrainedBits got = train(recipe, emulated(recipe, type), ranks, 2);
    got.state_bytes = 0;  // a matter of the layout
    if (want.losses.empty()) want = got;
    EXPECT_EQ(got.losses, want.losses) << name_of(type) << " " << more.back();
    EXPECT_EQ(got.norms, want.norms) << name_of(type) << " " << more.back();
    EXPECT_EQ(got.hash, want.hash) << name_of(type) << " " << more.back();
  }
}

TEST(EmulatedTraining, StatesArePlannedAsTheyAreSaved) {
  const Recipe recipe = recipe_with({"parallel.reduction=fast"});
  const TrainedBits wide = train(recipe, emulated(recipe, DType::kF32), 1, 0);
  const TrainedBits narrow = train(recipe, emulated(recipe, DType::kBF16), 1, 0);
  EXPECT_GT(wide.state_bytes, 0);
  EXPECT_EQ(narrow.state_bytes * 2, wide.state_bytes);
  // Tokens that are run twice: token by token, on states in float.
  const Recipe twice = recipe_with(
      {"parallel.reduction=fast", "train.overlap=8", "train.chunk=16", "parallel.sequence=1"});
  EXPECT_EQ(train(twice, emulated(twice, DType::kBF16), 1, 1).state_bytes,
            train(twice, emulated(twice, DType::kF32), 1, 0).state_bytes);
}

}  // namespace
}  // namespace rwkv
