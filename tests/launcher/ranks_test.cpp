// The same run on other numbers of MPI ranks.
#include "tests/launcher/launcher_test_support.h"

namespace rwkv {
namespace {

using namespace test;

class Ranks : public SmallRun {};

// Every number but the times has the same bits.
void expect_same(const std::vector<StepRow>& a, const std::vector<StepRow>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].loss, b[i].loss) << "step " << i + 1;
    EXPECT_EQ(a[i].grad_norm, b[i].grad_norm) << "step " << i + 1;
    EXPECT_EQ(a[i].lr, b[i].lr);
    EXPECT_EQ(a[i].tokens, b[i].tokens);
    EXPECT_EQ(*a[i].floor, *b[i].floor);
    EXPECT_EQ(a[i].skills, b[i].skills);
    EXPECT_EQ(a[i].repeated, b[i].repeated);
    EXPECT_EQ(a[i].scale_max, b[i].scale_max);
  }
  EXPECT_EQ(*a.back().eval_loss, *b.back().eval_loss);
}

TEST_F(Ranks, AnyNumberOfThemTrainsTheSame) {
  const Ended alone = program("small.yaml run.dir=r0");
  ASSERT_EQ(alone.code, 0) << alone.err;
  const std::vector<StepRow> want = rows("r0");
  ASSERT_EQ(want.size(), 6u);
  EXPECT_LT(want.back().loss, want.front().loss - 0.1);  // it learns, so the steps do something
  for (int ranks : {1, 2, 3, 5}) {
    const std::string dir = "r" + std::to_string(ranks);
    const Ended ended = mpi(ranks, "small.yaml run.dir=" + dir);
    ASSERT_EQ(ended.code, 0) << ended.err;
    EXPECT_FALSE(has(ended.out, "parked")) << ended.out;
    EXPECT_EQ(lines_of(ended.out), lines_of(alone.out)) << ended.out;  // one rank speaks
    expect_same(want, rows(dir));
    EXPECT_EQ(newest(dir).weights_hash, newest("r0").weights_hash);
    EXPECT_EQ(newest(dir).repeated_passes, newest("r0").repeated_passes);
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_TRUE(there(dir + "/checkpoints/step-6/rank-" + std::to_string(rank) + ".h5"));
    }
  }
}

// Under exact sums too, where the recipe's context is shorter than a leaf.
TEST_F(Ranks, TwoMeasureTheMachineForForecasts) {
  expect_refused(program("check small.yaml --calibrate c.json"), {"needs two ranks"});
  EXPECT_FALSE(there("c.json"));
  for (const char* reduction : {"exact", "fast"}) {
    const std::string given = std::string(" parallel.reduction=") + reduction;
    const Ended ended = mpi(2, "check small.yaml --calibrate c.json" + given);
    ASSERT_EQ(ended.code, 0) << ended.err;
    EXPECT_TRUE(has(ended.out, "forward_seconds_per_token"));
    const Ended checked = program("check small.yaml --ranks 4 --calibration c.json" + given);
    EXPECT_TRUE(has(checked.out, "forecast")) << checked.out << checked.err;
  }
}

TEST_F(Ranks, MoreOfThemThanSequencesAreParkedWithOneLine) {
  ASSERT_EQ(program("small.yaml train.batch=2 run.dir=r1").code, 0);
  const Ended ended = mpi(5, "small.yaml train.batch=2 run.dir=r5");
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.out.find("5 ranks, 2 with work: 3 parked"), 0u) << ended.out;
  EXPECT_EQ(ended.out.find("parked", ended.out.find("parked") + 1), std::string::npos);
  expect_same(rows("r1"), rows("r5"));
}

TEST_F(Ranks, ParkedOnesEndWithTheCodeOfTheOthers) {
  const Ended stopped = mpi(3, "small.yaml train.batch=1 train.stop_at=2 run.dir=r");
  EXPECT_EQ(stopped.code, 85) << stopped.err;
  const Ended refused = mpi(3, "small.yaml train.batch=1 optimizer.lr=1e-3 run.dir=r");
  EXPECT_EQ(refused.code, 88);
  EXPECT_EQ(lines_of(refused.err), 1) << refused.err;
  EXPECT_TRUE(has(refused.err, "optimizer.lr differs")) << refused.err;
}

TEST_F(Ranks, OptimizerStateCanBeSplit) {
  ASSERT_EQ(program("small.yaml run.dir=r1").code, 0);
  const Ended ended = mpi(3, "small.yaml parallel.shard=optimizer run.dir=r3");
  ASSERT_EQ(ended.code, 0) << ended.err;
  expect_same(rows("r1"), rows("r3"));
  EXPECT_EQ(newest("r1").weights_hash, newest("r3").weights_hash);
}

// A sequence over ranks and in chunks, another split after every stop.
TEST_F(Ranks, ASequenceCanBeSplitAndSplitAnewAfterAStop) {
  const std::string run = "small.yaml train.context=40 parallel.leaf=8 run.dir=";
  ASSERT_EQ(program(run + "whole").code, 0);
  struct Split {
    int ranks;
    const char* keys;
  };
  int stop = 0;
  for (const Split& split : {Split{3, "parallel.sequence=3 parallel.data=1"},
                             Split{4, "parallel.sequence=2 train.chunk=8 parallel.exchange=ring"},
                             Split{1, "train.chunk=16 train.stash=sqrt"},
                             Split{8, "parallel.sequence=4 train.chunk=8 train.stash=sqrt"},
                             Split{2, "parallel.sequence=2 train.chunk=24"}}) {
    const bool last = ++stop == 5;
    const std::string until = last ? "" : " train.stop_at=" + std::to_string(stop);
    const Ended ended = mpi(split.ranks, run + "split " + split.keys + until);
    ASSERT_EQ(ended.code, last ? 0 : 85) << split.keys << ": " << ended.err;
  }
  expect_same(rows("whole"), rows("split"));
  EXPECT_EQ(newest("whole").weights_hash, newest("split").weights_hash);
}

// What `check` says is sent is what every step has sent.
TEST_F(Ranks, BytesSentAreThosePlanned) {
  for (const auto& [ranks, keys] : std::vector<std::pair<int, std::string>>{
           {4, "parallel.data=2 parallel.sequence=2 train.chunk=8 parallel.exchange=ring"},
           {3, "parallel.data=1 parallel.sequence=3 train.chunk=8 parallel.exchange=gather"},
           {2, "parallel.data=1 parallel.sequence=2 train.chunk=8 train.stash=sqrt"},
           {4, "parallel.data=1 parallel.sequence=4 train.chunk=8 parallel.exchange=two_level"}}) {
    const std::string run = "small.yaml train.context=56 parallel.leaf=8 parallel.tile=4 " + keys;
    const std::string plan = program("check " + run + " --ranks " + std::to_string(ranks)).out;
    const size_t end = plan.find(" bytes in all");
    ASSERT_NE(end, std::string::npos) << plan;
    const int64_t planned = std::stoll(plan.substr(plan.rfind(' ', end - 1) + 1));
    EXPECT_GT(planned, 10000);
    ASSERT_EQ(mpi(ranks, run + " run.dir=r run.resume=never").code, 0) << keys;
    for (const StepRow& row : rows("r")) EXPECT_EQ(row.exchanged, planned) << keys;
  }
}

// One sequence over the ranks, in chunks: the numbers and the text of one rank and one pass.
TEST_F(Ranks, LongInputsAreEvaluatedAndContinuedOverRanks) {
  ASSERT_EQ(program("small.yaml parallel.leaf=8 parallel.tile=4 run.dir=r").code, 0);
  std::string prompt;
  for (int i = 0; i < 30; ++i) prompt += "40917 reversed is 71904.\n";
  folder_.write("prompt.txt", prompt);
  const std::string eval = "eval r train.context=200 eval.batches=1";
  const std::string generate = "generate r --prompt-file prompt.txt --tokens 20 --temperature 0.8";
  const Ended whole = program(eval), text = program(generate);
  ASSERT_EQ(whole.code, 0) << whole.err;
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_EQ(text.out.find(prompt), 0u);
  EXPECT_GT(text.out.size(), prompt.size() + 2);
  EXPECT_EQ(program(eval + " train.chunk=48").out, whole.out);
  for (int ranks : {2, 3, 7}) {
    EXPECT_EQ(mpi(ranks, eval + " train.chunk=24").out, whole.out);
    EXPECT_EQ(mpi(ranks, eval + " parallel.data=1 parallel.sequence=2").out, whole.out);
    EXPECT_EQ(mpi(ranks, generate).out, text.out);
  }
}

TEST_F(Ranks, FewerDataRanksCanBeGiven) {
  const Ended ended = mpi(3, "small.yaml parallel.data=2 run.dir=r");
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_TRUE(has(ended.out, "3 ranks, 2 with work: 1 parked")) << ended.out;
}

}  // namespace
}  // namespace rwkv
