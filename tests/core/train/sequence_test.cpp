// Sequences in segments without fixed-point sums: the gradient of the whole to rounding, for any
// chunk and overlap; and what the modes that cut it do.
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "tests/core/train/train_test_support.h"

namespace rwkv {
namespace {

using namespace test;

// One step: loss, gradient norm.
struct Step {
  double loss = 0, norm = 0;
};

Step step_of(int ranks, std::vector<std::string> keys) {
  for (const char* key : {"precision=fp64", "parallel.reduction=fast", "train.batch=2",
                          "train.context=40", "eval.batches=1"}) {
    keys.insert(keys.begin(), key);
  }
  const Recipe recipe = small_recipe(keys);
  Step out;
  std::mutex mutex;
  run_local(ranks, [&](Communicator& comm) {
    Trainer trainer(recipe, choose_machine(recipe, {}), comm);
    StepRow row;
    for (int64_t i = 0; i < 3; ++i) trainer.train_step(i, row);
    const std::lock_guard lock(mutex);
    if (comm.rank() == 0) out = {row.loss, row.grad_norm};
  });
  return out;
}

double difference(const Step& a, const Step& b) {
  return std::max(std::abs(a.loss / b.loss - 1), std::abs(a.norm / b.norm - 1));
}

TEST(Sequence, IsTheWholeInDoubleForEveryChunkAndOverlap) {
  const Step want = step_of(1, {});
  for (const int sequence : {1, 2, 3, 4, 5, 8}) {
    for (const int chunk : {5, 7, 13, 39}) {
      for (const int overlap : {0, 1, chunk / 2, chunk}) {
        for (const char* exchange : {"gather", "ring"}) {
          const Step got =
              step_of(sequence, {"parallel.sequence=" + std::to_string(sequence), "parallel.data=1",
                                 "train.chunk=" + std::to_string(chunk),
                                 "train.overlap=" + std::to_string(overlap),
                                 std::string("parallel.exchange=") + exchange});
          EXPECT_LT(difference(got, want), 1e-11) << sequence << " ranks, chunk " << chunk
                                                  << ", overlap " << overlap << ", " << exchange;
        }
      }
    }
  }
}

// Cutting must show, but not where the overlap holds all that is cut off.
TEST(Sequence, CutGradientsAndStatesAreOthers) {
  const Step want = step_of(1, {});
  for (const char* mode : {"train.gradient=truncated", "train.handoff=none"}) {
    const double none = difference(step_of(1, {"train.chunk=8", mode}), want);
    EXPECT_GT(none, 1e-7) << mode;
    const double two = difference(
        step_of(2, {"parallel.sequence=2", "parallel.data=1", "train.chunk=8", mode}), want);
    EXPECT_NEAR(two / none, 1, 1e-3) << mode;  // the same cut on two ranks
    // An overlap that reaches back to the sequence's start misses nothing.
    const Step all = step_of(1, {"train.chunk=20", "train.overlap=20", mode});
    EXPECT_LT(difference(all, want), 1e-11) << mode;
    EXPECT_GT(difference(step_of(1, {"train.chunk=20", "train.overlap=19", mode}), want), 1e-9);
  }
}

}  // namespace
}  // namespace rwkv
