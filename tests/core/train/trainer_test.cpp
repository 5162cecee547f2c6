// Mechanics of a training step: shares, micro-batches, recompute, stopping, what a row says.
#include "core/train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "core/io/checkpoint.h"
#include "core/plan/schedule.h"
#include "parallel/agree.h"
#include "tests/core/train/train_test_support.h"
#include "tests/support/process.h"

namespace rwkv {
namespace {

using namespace test;

// What some steps leave: losses and norms a step, gradients of the last step's mean loss.
struct Result {
  std::vector<double> losses, norms, grads;
  std::vector<uint64_t> hashes;  // of the weights, a rank
};

std::vector<double> mean_gradients(Trainer& trainer) {
  std::vector<double> grads;
  const ParamStore& store = trainer.store();
  for (size_t i = 0; i < store.size(); ++i) {
    for (double g : doubles(store.grad(i))) grads.push_back(g * store.grad_unit(i));
  }
  for (double& g : grads) g /= static_cast<double>(trainer.tokens_a_step());
  return grads;
}

Result train(const Recipe& recipe, int ranks, int64_t steps) {
  Result result;
  result.hashes.resize(static_cast<size_t>(ranks));
  std::mutex mutex;
  run_local(ranks, [&](Communicator& comm) {
    Trainer trainer(recipe, one_thread(recipe), comm);
    std::vector<double> losses, norms;
    for (int64_t step = 0; step < steps; ++step) {
      StepRow row;
      trainer.train_step(step, row);
      losses.push_back(row.loss);
      norms.push_back(row.grad_norm);
    }
    const std::lock_guard lock(mutex);
    result.hashes[static_cast<size_t>(comm.rank())] = trainer.store().hash();
    if (comm.rank() != 0) return;
    result.losses = losses;
    result.norms = norms;
    result.grads = mean_gradients(trainer);
  });
  return result;
}

// The first step is the same function of the same weights; later ones amplify rounding.
void expect_near(const Result& a, const Result& b, double tolerance) {
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (size_t i = 0; i < a.losses.size(); ++i) {
    EXPECT_NEAR(a.losses[i], b.losses[i], tolerance) << "step " << i + 1;
    EXPECT_NEAR(a.norms[i] / b.norms[i], 1, 100 * tolerance) << "step " << i + 1;
  }
}

TEST(Trainer, RanksGiveTheSameGradients) {
  for (const auto& [precision, tolerance] : {std::pair{"fp64", 1e-12}, std::pair{"fp32", 1e-6}}) {
    const Recipe recipe = small_recipe({std::string("precision=") + precision});
    const Result want = train(recipe, 1, 1);
    for (int ranks : {2, 3, 5}) {
      const Result got = train(recipe, ranks, 1);
      expect_near(got, want, tolerance);
      EXPECT_LT(distance(got.grads, want.grads), tolerance) << precision << ", " << ranks;
    }
  }
}

TEST(Trainer, RanksTrainTheSameAndEndWithTheSameBits) {
  for (const auto& [precision, tolerance] : {std::pair{"fp64", 1e-9}, std::pair{"fp32", 1e-6}}) {
    const Recipe recipe = small_recipe({std::string("precision=") + precision});
    const Result want = train(recipe, 1, 5);
    EXPECT_LT(want.losses[4], want.losses[0] - 0.05);
    for (int ranks : {2, 3}) {
      const Result got = train(recipe, ranks, 5);
      expect_near(got, want, tolerance);
      for (uint64_t hash : got.hashes) EXPECT_EQ(hash, got.hashes[0]) << ranks;
    }
  }
}

TEST(Trainer, TheSameLayoutGivesTheSameBits) {
  for (const char* precision : {"fp64", "fp32", "bf16"}) {
    const Recipe recipe = small_recipe({std::string("precision=") + precision});
    const Result a = train(recipe, 2, 3), b = train(recipe, 2, 3);
    EXPECT_EQ(a.losses, b.losses) << precision;
    EXPECT_EQ(a.hashes, b.hashes) << precision;
  }
}

// Five sequences in passes of two leave a row of padding, which must weigh nothing.
TEST(Trainer, MicroBatchesDoNotChangeTheStep) {
  for (const auto& [precision, tolerance] : {std::pair{"fp64", 1e-12}, std::pair{"fp32", 1e-6}}) {
    const std::string given = std::string("precision=") + precision;
    const Result want = train(small_recipe({given, "train.micro_batch=5"}), 1, 1);
    for (const char* micro : {"1", "2", "3", "4"}) {
      const Recipe recipe = small_recipe({given, std::string("train.micro_batch=") + micro});
      const Result got = train(recipe, 1, 1);
      expect_near(got, want, tolerance);
      EXPECT_LT(distance(got.grads, want.grads), tolerance) << precision << ", " << micro;
    }
  }
}

TEST(Trainer, RecomputeGivesTheSameBits) {
  for (const char* precision : {"fp64", "fp32", "bf16"}) {
    const std::string given = std::string("precision=") + precision;
    const Result kept = train(small_recipe({given}), 1, 3);
    for (const char* what : {"norms", "block"}) {
      const std::string recompute = std::string("train.recompute=") + what;
      const Result again = train(small_recipe({given, recompute}), 1, 3);
      EXPECT_EQ(kept.losses, again.losses) << precision << ", " << what;
      EXPECT_EQ(kept.hashes, again.hashes) << precision << ", " << what;
    }
  }
}

TEST(Trainer, FastSumsOfRanksAreCloseToOneRanks) {
  for (const char* micro : {"train.micro_batch=1", "train.micro_batch=5"}) {
    const Recipe fast = small_recipe({"precision=fp32", "parallel.reduction=fast", micro});
    const Result alone = train(fast, 1, 3);
    for (const int ranks : {2, 3}) expect_near(train(fast, ranks, 3), alone, 1e-5);
  }
}

// What GradSync takes while the last pass goes on, piece by piece: all of the gradients, each once.
TEST(Trainer, PiecesOfGradientsAreAllOfThem) {
  const Recipe recipe = small_recipe();
  const Model model(complete_model(recipe));
  const ParamStore store(model.params(), {DType::kF64, DType::kF64}, true);
  int64_t elements = 0;
  for (size_t i = 0; i < store.size(); ++i) {
    const Tensor piece = store.gradients(i, i + 1);
    EXPECT_EQ(piece.data, store.grad(i).data);
    EXPECT_GE(piece.elements(), store.grad(i).elements());
    elements += piece.elements();
  }
  EXPECT_EQ(elements, store.all_gradients().elements());
}

// Gradients of the logits overflow when they are scaled by more than 2^5.
const Backend& overflowing_backend() {
  static const Backend table = [] {
    Backend t = cpu_backend();
    t.cross_entropy = [](const Stream& stream, const CrossEntropy& op) {
      cpu_backend().cross_entropy(stream, op);
      if (op.grad_scale > 32) op.dlogits.as<float>()[0] = INFINITY;
    };
    return t;
  }();
  return table;
}

TEST(Trainer, TheLossScaleFallsUntilGradientsAreFinite) {
  for (const char* reduction : {"fast", "exact"}) {
    const Recipe recipe =
        small_recipe({"precision=fp32", std::string("parallel.reduction=") + reduction});
    for (const int ranks : {1, 2}) {
      const Result wanted = train(recipe, ranks, 3);
      run_local(ranks, [&](Communicator& comm) {
        Machine machine = one_thread(recipe);
        machine.ops = &overflowing_backend();
        machine.scales_loss = true;
        Trainer trainer(recipe, machine, comm);
        ASSERT_TRUE(trainer.loss_scale());
        trainer.set_loss_scale({.exponent = 7});
        for (int64_t step = 0; step < 3; ++step) {
          StepRow row;
          trainer.train_step(step, row);
          // A power of two changes no bit of what fits.
          EXPECT_EQ(row.loss, wanted.losses[static_cast<size_t>(step)]);
          EXPECT_EQ(row.grad_norm, wanted.norms[static_cast<size_t>(step)]);
          EXPECT_EQ(row.loss_scale, 32);
          EXPECT_GE(row.repeated, step == 0 ? 2 : 0);
        }
        EXPECT_EQ(trainer.loss_scale()->exponent, 5);
        EXPECT_EQ(trainer.loss_scale()->good, 3);
        EXPECT_EQ(trainer.store().hash(), wanted.hashes[0]);
      });
    }
  }
}

// A loss that is not finite is not the scale's doing: all ranks say so, those too whose own is
// good.
thread_local bool loses_its_loss = false;

TEST(Trainer, ALossThatOneRankLosesEndsAllOfThem) {
  static const Backend losing = [] {
    Backend t = cpu_backend();
    t.cross_entropy = [](const Stream& stream, const CrossEntropy& op) {
      cpu_backend().cross_entropy(stream, op);
      if (!loses_its_loss) return;
      op.loss.as<float>()[0] = NAN;
      op.dlogits.as<float>()[0] = NAN;
    };
    return t;
  }();
  for (const char* reduction : {"fast", "exact"}) {
    const Recipe recipe =
        small_recipe({"precision=fp32", std::string("parallel.reduction=") + reduction});
    run_local(3, [&](Communicator& comm) {
      loses_its_loss = comm.rank() == 1;
      Machine machine = one_thread(recipe);
      machine.ops = &losing;
      machine.scales_loss = true;
      Trainer trainer(recipe, machine, comm);
      StepRow row;
      std::string said;
      try {
        trainer.train_step(0, row);
      } catch (const Error& error) {
        said = error.what();
      }
      loses_its_loss = false;
      EXPECT_NE(said.find("not finite"), std::string::npos) << reduction << ": " << said;
      comm.barrier();  // all are here, none waits for another
    });
  }
}

TEST(Trainer, ARowSaysWhatTheStepWas) {
  const Recipe recipe = small_recipe();
  const auto self = make_self();
  Trainer trainer(recipe, one_thread(recipe), *self);
  StepRow row;
  for (int64_t step : {0, 1, 7}) {
    EXPECT_FALSE(trainer.train_step(step, row));
    EXPECT_EQ(row.step, step + 1);
    EXPECT_EQ(row.tokens, (step + 1) * 5 * 24);
    EXPECT_EQ(row.lr, learning_rate(recipe.optimizer, step, recipe.train.steps));
    EXPECT_GT(row.seconds, 0);
    EXPECT_NEAR(row.tokens_per_s, 5 * 24 / row.seconds, 1e-6 * row.tokens_per_s);
    ASSERT_TRUE(row.floor.has_value());
    EXPECT_GT(*row.floor, 0.3);
    EXPECT_LT(*row.floor, row.loss);
    ASSERT_EQ(row.skills.size(), 1u);
    EXPECT_EQ(row.skills[0].first, "reverse");
  }
}

TEST(Trainer, TheNormIsThatOfTheMeanGradientBeforeClipping) {
  const Recipe recipe = small_recipe({"optimizer.clip=1e-3"});
  const auto self = make_self();
  Trainer trainer(recipe, one_thread(recipe), *self);
  StepRow row;
  trainer.train_step(0, row);
  double squares = 0;
  for (double g : mean_gradients(trainer)) squares += g * g;
  EXPECT_NEAR(row.grad_norm / std::sqrt(squares), 1, 1e-12);
  EXPECT_GT(row.grad_norm, 1);
}

TEST(Trainer, OneRankThatIsAskedToStopStopsAll) {
  const Recipe recipe = small_recipe();
  std::vector<int> stopped(3);
  run_local(3, [&](Communicator& comm) {
    const volatile int flag = comm.rank() == 1 ? 1 : 0;
    Trainer trainer(recipe, one_thread(recipe), comm);
    trainer.set_stop_flag(&flag);
    StepRow row;
    stopped[static_cast<size_t>(comm.rank())] = trainer.train_step(0, row) ? 1 : 0;
    EXPECT_EQ(row.step, 1);
  });
  EXPECT_EQ(stopped, (std::vector<int>{1, 1, 1}));
}

TEST(Trainer, AnotherSeedGivesOtherWeightsAndData) {
  const Result a = train(small_recipe(), 1, 1), b = train(small_recipe({"run.seed=2"}), 1, 1);
  EXPECT_NE(a.losses, b.losses);
  EXPECT_NE(a.hashes, b.hashes);
}

TEST(Trainer, ALossThatIsNotFiniteUpdatesNothing) {
  const Recipe recipe = small_recipe();
  const auto self = make_self();
  Trainer trainer(recipe, one_thread(recipe), *self);
  ParamStore& store = trainer.store();
  store.master(static_cast<size_t>(store.find("ln_out.weight"))).as<double>()[3] = NAN;
  const uint64_t before = store.hash();
  StepRow row;
  try {
    trainer.train_step(4, row);
    FAIL() << "a loss of NaN was trained on";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("step 5: loss"), std::string::npos) << what;
    EXPECT_NE(what.find("nan"), std::string::npos) << what;
    EXPECT_EQ(error.exit_code(), ExitCode::kFatal);
  }
  EXPECT_EQ(store.hash(), before);
}

TEST(Trainer, StartsFromGivenWeights) {
  const TempFolder folder;
  const auto self = make_self();
  const Recipe first = small_recipe();
  Trainer trained(first, one_thread(first), *self);
  StepRow row;
  for (int64_t step = 0; step < 2; ++step) trained.train_step(step, row);
  CheckpointInfo info;
  info.step = 2;
  info.recipe = to_yaml(first);
  save_checkpoint(folder.path(), info, trained.store(), 0, *self);
  const Recipe second = small_recipe({"run.init_from=" + folder.file("step-2")});
  const Trainer fresh(second, one_thread(second), *self);
  EXPECT_EQ(const_cast<Trainer&>(fresh).store().hash(), trained.store().hash());
}

// bf16 products read copies: they must follow the masters, from the start and after every update.
TEST(Trainer, ComputeCopiesFollowTheWeights) {
  const Recipe recipe = small_recipe({"precision=bf16"});
  const auto self = make_self();
  Trainer trainer(recipe, one_thread(recipe), *self);
  if (trainer.precision().compute != DType::kBF16) GTEST_SKIP() << "no bf16 on this CPU";
  StepRow row;
  for (int64_t step = 0; step < 3; ++step) {
    const ParamStore& store = trainer.store();
    int copies = 0;
    for (size_t i = 0; i < store.size(); ++i) {
      if (store.compute_copy(i).empty()) continue;
      ++copies;
      const float* master = store.master(i).as<float>();
      const bf16* copy = store.compute_copy(i).as<bf16>();
      for (int64_t e = 0; e < store.master(i).elements(); ++e) {
        ASSERT_EQ(copy[e].bits, bf16(master[e]).bits) << store.specs()[i].name << " " << e;
      }
    }
    EXPECT_GT(copies, 10);
    trainer.train_step(step, row);
  }
}

TEST(Trainer, EvaluatesGeneratedAndHeldOutDataOnly) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 3000; ++i) text += static_cast<char>('a' + i * i % 23);
  const std::vector<std::string> on_text = {"data.source=text",
                                            "data.path=" + folder.write("t", text)};
  const auto self = make_self();
  const Recipe none = small_recipe(on_text);
  Trainer without(none, one_thread(none), *self);
  EXPECT_FALSE(without.has_validation());
  EXPECT_FALSE(without.evaluate().has_value());
  const Recipe some = small_recipe({on_text[0], on_text[1], "data.validation=0.1"});
  Trainer with(some, one_thread(some), *self);
  const uint64_t before = with.store().hash();
  const auto totals = with.evaluate();
  ASSERT_TRUE(totals.has_value());
  EXPECT_EQ(totals->weight(), 13 * 24);  // a tenth of 125 samples
  EXPECT_NEAR(totals->mean_loss(), std::log(257), 0.5);
  EXPECT_TRUE(std::isnan(totals->nats()));
  EXPECT_EQ(with.store().hash(), before);
}

}  // namespace
}  // namespace rwkv
