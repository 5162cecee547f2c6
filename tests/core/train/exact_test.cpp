// parallel.reduction: exact. Losses, gradient norms and weights have the same bits for every number
// of ranks, micro-batch and number of threads.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "tests/core/train/train_test_support.h"
#include "tests/support/binidx_fields.h"

namespace rwkv {
namespace {

using namespace test;

struct Layout {
  int ranks = 1, threads = 1;
  int64_t micro_batch = 0;  // 0: auto
  bool shard = false;       // optimizer state split over the ranks
};

std::string to_string(const Layout& layout) {
  return std::to_string(layout.ranks) + " ranks, " + std::to_string(layout.threads) +
         " threads, micro-batch " + std::to_string(layout.micro_batch) +
         (layout.shard ? ", sharded" : "");
}

struct Trained {
  std::vector<double> losses, norms;  // a step
  std::vector<double> scales;
  double eval_loss = 0;
  uint64_t hash = 0;  // of the weights
  int64_t repeated = 0;
};

void expect_same_bits(const Trained& a, const Trained& b, const Layout& layout) {
  EXPECT_EQ(a.losses, b.losses) << to_string(layout);
  EXPECT_EQ(a.norms, b.norms) << to_string(layout);
  EXPECT_EQ(a.scales, b.scales) << to_string(layout);
  EXPECT_EQ(a.eval_loss, b.eval_loss) << to_string(layout);
  EXPECT_EQ(a.hash, b.hash) << to_string(layout);
  EXPECT_EQ(a.repeated, b.repeated) << to_string(layout);
}

Trained train(const std::vector<std::string>& overrides, const Layout& layout, int64_t steps) {
  std::vector<std::string> all = overrides;
  all.push_back("train.micro_batch=" + (layout.micro_batch == 0
                                            ? std::string("auto")
                                            : std::to_string(layout.micro_batch)));
  if (layout.shard) all.emplace_back("parallel.shard=optimizer");
  const Recipe recipe = small_recipe(all);
  std::vector<Trained> ranks(static_cast<size_t>(layout.ranks));
  run_local(layout.ranks, [&](Communicator& comm) {
    Machine machine = choose_machine(recipe, {});
    machine.threads = layout.threads;
    Trainer trainer(recipe, machine, comm);
    Trained& own = ranks[static_cast<size_t>(comm.rank())];
    for (int64_t step = 0; step < steps; ++step) {
      StepRow row;
      trainer.train_step(step, row);
      own.losses.push_back(row.loss);
      own.norms.push_back(row.grad_norm);
    }
    own.scales = trainer.store().scales();
    own.eval_loss = trainer.evaluate()->mean_loss();
    own.hash = trainer.store().hash();
    own.repeated = trainer.repeated_passes();
  });
  for (const Trained& other : ranks) expect_same_bits(other, ranks[0], layout);
  return ranks[0];
}

class Exact : public testing::TestWithParam<const char*> {
 protected:
  std::vector<std::string> with(std::vector<std::string> more) const {
    more.push_back(std::string("precision=") + GetParam());
    more.emplace_back("eval.batches=1");
    return more;
  }
};

TEST_P(Exact, EveryRankCountAndMicroBatch) {
  // Contexts that are no leaf, several leaves and a part of one.
  for (const char* leaf : {"512", "16", "7"}) {
    const auto given = with({std::string("parallel.leaf=") + leaf});
    const Trained want = train(given, {1, 1, 5}, 4);
    EXPECT_GE(want.repeated, 1);
    for (const Layout& layout :
         {Layout{1, 1, 1}, {1, 1, 2}, {2, 1, 0}, {3, 1, 1}, {5, 1, 0}, {4, 1, 0, true}}) {
      expect_same_bits(train(given, layout, 4), want, layout);
    }
  }
}

TEST_P(Exact, TwentyRandomLayouts) {
  std::mt19937 random(20);
  const auto given = with({"train.batch=8", "train.context=40", "parallel.leaf=16"});
  const Trained want = train(given, {}, 3);
  const bool threads = std::string(GetParam()) != "fp64";  // the reference kernels have one
  for (int i = 0; i < 20; ++i) {
    const Layout layout{1 + static_cast<int>(random() % 8),
                        threads ? 1 + static_cast<int>(random() % 3) : 1,
                        static_cast<int64_t>(random() % 9), random() % 2 == 0};
    expect_same_bits(train(given, layout, 3), want, layout);
  }
}

// Sequences over ranks and in chunks: every exchange, stash and mesh.
void expect_every_split(std::vector<std::string> given) {
  for (const char* key :
       {"train.batch=2", "train.context=72", "parallel.leaf=16", "parallel.tile=8"}) {
    given.emplace_back(key);
  }
  const Trained want = train(given, {}, 3);
  struct Split {
    int ranks, sequence;
    int64_t chunk;
    const char *exchange, *stash, *recompute;
  };
  for (const Split& split :
       {Split{1, 1, 16, "auto", "all", "none"}, Split{1, 1, 16, "ring", "sqrt", "block"},
        Split{1, 1, 32, "gather", "host", "none"}, Split{2, 2, 0, "gather", "all", "none"},
        Split{3, 3, 0, "ring", "all", "block"}, Split{5, 5, 0, "gather", "all", "none"},
        Split{6, 6, 16, "ring", "all", "none"}, Split{2, 2, 16, "gather", "sqrt", "none"},
        Split{2, 2, 16, "ring", "sqrt", "none"}, Split{3, 3, 16, "ring", "all", "none"},
        Split{4, 2, 32, "gather", "all", "none"}, Split{8, 4, 16, "ring", "all", "block"},
        Split{4, 4, 16, "two_level", "sqrt", "none"}}) {
    auto split_up = given;
    for (const std::string& key : {"parallel.sequence=" + std::to_string(split.sequence),
                                   "train.chunk=" + std::to_string(split.chunk),
                                   std::string("parallel.exchange=") + split.exchange,
                                   std::string("train.stash=") + split.stash,
                                   std::string("train.recompute=") + split.recompute}) {
      split_up.push_back(key);
    }
    SCOPED_TRACE(testing::Message() << split.sequence << " ranks a sequence, chunk " << split.chunk
                                    << ", " << split.exchange << ", " << split.stash);
    expect_same_bits(train(split_up, {split.ranks}, 3), want, {split.ranks});
  }
}

TEST_P(Exact, EverySplitOfASequence) { expect_every_split(with({})); }

// Documents that start at an edge of a segment, beside it and anywhere, each from an empty state.
TEST_P(Exact, EverySplitOfPackedDocuments) {
  char folder[] = "/tmp/rwkv-packed-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string prefix = std::string(folder) + "/packed";
  const std::vector<int32_t> sizes = {15, 1, 16, 1, 20, 19, 3, 1, 1, 70, 40, 30, 100, 60};
  std::vector<int64_t> tokens;
  for (const int32_t size : sizes) {
    for (int32_t i = 0; i < size; ++i) tokens.push_back((i * i + size) % 50);
  }
  std::ofstream(prefix + ".bin", std::ios::binary) << as_bin<uint16_t>(tokens);
  std::ofstream(prefix + ".idx", std::ios::binary) << IndexFields(8, 2, sizes).bytes();
  const auto packed = [&](const char* resets) {
    return with({"data.source=binidx", "data.path=" + prefix, "data.validation=0.2",
                 "data.sampler=sequential", std::string("data.reset_documents=") + resets});
  };
  expect_every_split(packed("true"));
  EXPECT_NE(train(packed("true"), {}, 2).hash, train(packed("false"), {}, 2).hash);
  std::filesystem::remove_all(folder);
}

TEST_P(Exact, IsCloseToFast) {
  const Trained exact = train(with({}), {}, 3);
  const Trained fast = train(with({"parallel.reduction=fast"}), {}, 3);
  const std::string precision = GetParam();
  const double tolerance = precision == "fp64" ? 1e-11 : precision == "fp32" ? 1e-5 : 1e-2;
  for (size_t i = 0; i < exact.losses.size(); ++i) {
    EXPECT_NEAR(exact.losses[i], fast.losses[i], tolerance);
    EXPECT_NEAR(exact.norms[i] / fast.norms[i], 1, 10 * tolerance);
  }
  EXPECT_EQ(fast.repeated, 0);
}

// What the tests above would see if sums were taken as they come.
TEST(ExactCanary, FastSumsDoDependOnTheLayout) {
  const std::vector<std::string> given = {"precision=fp32", "parallel.reduction=fast",
                                          "eval.batches=1"};
  EXPECT_NE(train(given, {1, 1, 5}, 4).hash, train(given, {3, 1, 1}, 4).hash);
}

INSTANTIATE_TEST_SUITE_P(Precisions, Exact, testing::Values("fp64", "fp32", "bf16"),
                         [](const auto& precision) { return std::string(precision.param); });

}  // namespace
}  // namespace rwkv
