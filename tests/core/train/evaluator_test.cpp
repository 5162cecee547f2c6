// Evaluation: every sample once, the same number on any ranks.
#include "core/train/evaluator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>

#include "core/plan/param_table.h"
#include "tests/core/train/train_test_support.h"
#include "tests/support/model_run.h"

namespace rwkv {
namespace {

using namespace test;

constexpr int64_t kContext = 12, kVocab = 37;

class EvaluatorTest : public testing::Test {
 protected:
  EvaluatorTest() {
    ModelConfig config;
    config.layers = 2;
    config.width = 32;
    config.head_size = 16;
    config.vocab = kVocab;
    model_ = std::make_unique<Model>(resolve_model(config, kVocab));
    store_ = std::make_unique<ParamStore>(model_->params(), kDouble, false);
    randomize(*store_);
  }

  Totals run(Communicator& comm, const SampleSource& source, int64_t count, int64_t micro_batch,
             const Evaluator::Visit& visit = {}) const {
    SequencePlan plan;
    plan.model = {kDouble, micro_batch, kContext, 1, false, false};
    plan.segments = plan_segments(kContext, 1, 0, 0, 0);
    const auto self = make_self();
    SequenceRunner runner(*model_, plan, *self, reference_backend());
    Tally tally(micro_batch, kContext, true, 0, *self);
    const Share share = share_of(count, comm.size(), comm.rank());
    Evaluator evaluator(source, micro_batch, kContext);
    return evaluator.run({{1}, reference_backend()}, *store_, {runner, tally, share, true}, comm,
                         visit);
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<ParamStore> store_;
};

TEST_F(EvaluatorTest, ReadsEachSampleOnceInOrder) {
  for (int64_t micro_batch : {1, 2, 7, 9}) {
    const CountingSource source(10, kVocab);
    std::vector<std::pair<int64_t, int64_t>> visits;
    const auto self = make_self();
    const Totals totals = run(*self, source, 7, micro_batch,
                              [&](int64_t first, int64_t count, const SequenceRunner::Result&) {
                                visits.emplace_back(first, count);
                              });
    EXPECT_EQ(source.reads(), (std::vector<int>{1, 1, 1, 1, 1, 1, 1, 0, 0, 0})) << micro_batch;
    int64_t next = 0;
    for (const auto& [first, count] : visits) {
      EXPECT_EQ(first, next);
      EXPECT_LE(count, micro_batch);
      next += count;
    }
    EXPECT_EQ(next, 7);
    EXPECT_EQ(totals.weight(), 7 * kContext / 2);
    EXPECT_EQ(totals.nats(), 7 * 0.5 + 21);
    EXPECT_EQ(totals.asked, (std::vector<int64_t>{7, 7}));
  }
}

TEST_F(EvaluatorTest, BatchesAndRanksDoNotChangeTheLoss) {
  const CountingSource source(10, kVocab);
  const auto self = make_self();
  const Totals want = run(*self, source, 7, 7);
  EXPECT_NEAR(want.mean_loss(), std::log(kVocab), 0.5);
  for (int64_t micro_batch : {1, 2, 3}) {
    const double loss = run(*self, source, 7, micro_batch).mean_loss();
    EXPECT_NEAR(loss / want.mean_loss(), 1, 1e-12) << micro_batch;
  }
  for (int ranks : {2, 3, 9}) {  // nine ranks have seven samples: some have none
    std::mutex mutex;
    run_local(ranks, [&](Communicator& comm) {
      const CountingSource own(10, kVocab);
      const Totals totals = run(comm, own, 7, 2);
      const std::lock_guard lock(mutex);
      EXPECT_NEAR(totals.mean_loss() / want.mean_loss(), 1, 1e-12) << ranks;
      EXPECT_EQ(totals.weight(), want.weight());
      EXPECT_EQ(totals.asked, want.asked);
      EXPECT_EQ(totals.answered, want.answered);
    });
  }
}

TEST_F(EvaluatorTest, EachSampleStartsFromAnEmptyState) {
  const CountingSource source(10, kVocab);
  const auto self = make_self();
  std::vector<double> alone, together;
  const auto keep = [](std::vector<double>& to) {
    return [&](int64_t, int64_t, const SequenceRunner::Result& result) {
      to.push_back(doubles(result.loss)[3]);
    };
  };
  run(*self, source, 1, 1, keep(alone));
  run(*self, source, 2, 1, keep(together));
  ASSERT_EQ(together.size(), 2u);
  EXPECT_EQ(together[0], alone[0]);
  EXPECT_NE(together[0], together[1]);
}

TEST(EvalSamples, AreAllOrAsManyBatchesAsAsked) {
  constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();
  const auto samples = [](int64_t batches, int64_t batch, int64_t size) {
    Recipe recipe;
    recipe.eval.batches = batches;
    recipe.train.batch = batch;
    class Sized final : public SampleSource {
     public:
      explicit Sized(int64_t size) : size_(size) {}
      int64_t size() const override { return size_; }
      double read(int64_t, const SampleView&) const override { return 0; }
      std::string describe() const override { return ""; }

     private:
      int64_t size_;
    };
    return eval_samples(recipe, Sized(size));
  };
  EXPECT_EQ(samples(0, 5, 33), 33);
  EXPECT_EQ(samples(2, 5, 33), 10);
  EXPECT_EQ(samples(7, 5, 33), 33);
  EXPECT_EQ(samples(3, 0, 33), 3);  // no batch is given: sequences
  EXPECT_EQ(samples(0, 5, kEndless), kGeneratorEvalSamples);
  EXPECT_EQ(samples(2, 5, kEndless), 10);
  EXPECT_EQ(samples(kEndless, 5, 33), 33);
}

}  // namespace
}  // namespace rwkv
