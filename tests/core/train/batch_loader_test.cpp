// Samples become micro-batches: shift, padding, grading.
#include "core/train/batch_loader.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/core/train/train_test_support.h"

namespace rwkv {
namespace {

using namespace test;

constexpr int64_t kBatchContext = 4;

std::vector<int32_t> ints(const ConstTensor& t) {
  const auto* values = t.as<int32_t>();
  return {values, values + t.elements()};
}

std::vector<float> floats(const ConstTensor& t) {
  const auto* values = t.as<float>();
  return {values, values + t.elements()};
}

class BatchLoaderTest : public testing::Test {
 protected:
  CountingSource source_{10};
};

TEST_F(BatchLoaderTest, TargetsAreTheNextTokens) {
  BatchLoader loader(source_, 3, kBatchContext);
  Totals totals(2);
  loader.load({7, 2, 5}, totals);
  EXPECT_EQ(totals.nats(), 7.5 + 2.5 + 5.5);
  const Batch batch = loader.batch(0, 2);
  EXPECT_EQ(batch.tokens.shape, (Shape{2, kBatchContext}));
  EXPECT_EQ(ints(batch.tokens),
            (std::vector<int32_t>{7000, 7001, 7002, 7003, 2000, 2001, 2002, 2003}));
  EXPECT_EQ(ints(batch.targets),
            (std::vector<int32_t>{7001, 7002, 7003, 7004, 2001, 2002, 2003, 2004}));
  EXPECT_EQ(floats(batch.weight), (std::vector<float>{1, 0, 1, 0, 1, 0, 1, 0}));
  EXPECT_EQ(ints(loader.batch(2, 1).tokens), (std::vector<int32_t>{5000, 5001, 5002, 5003}));
  EXPECT_EQ(loader.weight(), 6);
}

TEST_F(BatchLoaderTest, RowsBehindTheLastSampleWeighNothing) {
  BatchLoader loader(source_, 4, kBatchContext);
  Totals totals(2);
  loader.load({1, 2, 3, 4}, totals);
  loader.load({5, 6, 7}, totals);  // one fewer than before: nothing of the last load may stay
  const Batch batch = loader.batch(2, 2);
  EXPECT_EQ(ints(batch.tokens), (std::vector<int32_t>{7000, 7001, 7002, 7003, 0, 0, 0, 0}));
  EXPECT_EQ(ints(batch.targets), (std::vector<int32_t>{7001, 7002, 7003, 7004, 0, 0, 0, 0}));
  EXPECT_EQ(floats(batch.weight), (std::vector<float>{1, 0, 1, 0, 0, 0, 0, 0}));
  EXPECT_EQ(loader.weight(), 6);
}

// Starts at every input whose token is even.
class EvenStarts final : public SampleSource {
 public:
  int64_t size() const override { return 10; }
  double read(int64_t index, const SampleView& view) const override {
    const double nats = counting_.read(index, view);
    for (size_t t = 0; t < view.starts.size(); ++t) view.starts[t] = 1 - view.tokens[t] % 2;
    return nats;
  }
  std::string describe() const override { return "even"; }

 private:
  CountingSource counting_{10};
};

TEST(BatchLoader, SaysWhereDocumentsStart) {
  const EvenStarts source;
  BatchLoader loader(source, 3, kBatchContext, true);
  Totals totals(2);
  loader.load({7, 2, 5}, totals);
  loader.load({7, 2}, totals);
  EXPECT_EQ(ints(loader.batch(1, 2).starts), (std::vector<int32_t>{1, 0, 1, 0, 0, 0, 0, 0}));
  BatchLoader without(source, 3, kBatchContext);
  without.load({7}, totals);
  EXPECT_TRUE(without.batch(0, 1).starts.empty());
}

TEST_F(BatchLoaderTest, ABatchBeyondItsRoomIsAnError) {
  const BatchLoader loader(source_, 4, kBatchContext);
  EXPECT_THROW(loader.batch(3, 2), Error);
}

// Sample: targets 0 and 1 are a question of skill 0, target 2 one of skill 1.
TEST_F(BatchLoaderTest, AQuestionCountsWhenAllOfItsTargetsAreRight) {
  BatchLoader loader(source_, 4, kBatchContext);
  Totals totals(2);
  loader.load({1, 2, 3}, totals);
  const std::vector<int32_t> none(kBatchContext, -1);
  // Slot 0: all right. Slot 1: half of the first question. Slot 2: only the second question.
  std::vector<int32_t> best = {1001, 1002, 1003, 0, 2001, 9, 9, 9, 9, 9, 3003, 9, 0, 0, 0, 0};
  std::vector<int64_t> asked(2), answered(2);
  loader.grade(0, 3, view_of(best.data(), {4, kBatchContext}), asked, answered);
  EXPECT_EQ(asked, (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(answered, (std::vector<int64_t>{1, 2}));
  // The empty slot asks nothing.
  loader.grade(3, 1, view_of(best.data(), {1, kBatchContext}), asked, answered);
  EXPECT_EQ(asked, (std::vector<int64_t>{3, 3}));
  // Slots of a later micro-batch meet the first rows of `best`.
  std::vector<int32_t> later = {3001, 3002, 3003, 9};
  loader.grade(2, 1, view_of(later.data(), {1, kBatchContext}), asked, answered);
  EXPECT_EQ(answered, (std::vector<int64_t>{2, 3}));
}

}  // namespace
}  // namespace rwkv
