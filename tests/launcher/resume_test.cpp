// Stopping, resuming, and jobs that are killed.
#include <bit>

#include "core/base/posix_file.h"
#include "tests/launcher/launcher_test_support.h"

namespace rwkv {
namespace {

using namespace test;

uint64_t bits(double x) { return std::bit_cast<uint64_t>(x); }

void expect_same_rows(const std::vector<StepRow>& a, const std::vector<StepRow>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].step, b[i].step);
    EXPECT_EQ(a[i].tokens, b[i].tokens);
    EXPECT_EQ(bits(a[i].loss), bits(b[i].loss)) << "step " << a[i].step;
    EXPECT_EQ(bits(a[i].grad_norm), bits(b[i].grad_norm)) << "step " << a[i].step;
    EXPECT_EQ(bits(a[i].lr), bits(b[i].lr)) << "step " << a[i].step;
    EXPECT_EQ(a[i].eval_loss, b[i].eval_loss) << "step " << a[i].step;
    EXPECT_EQ(a[i].skills, b[i].skills) << "step " << a[i].step;
  }
}

class Resume : public SmallRun {
 protected:
  // Runs the program, expecting this code.
  std::string go(const std::string& arguments, int code = 0) const {
    const Ended ended = program(arguments);
    EXPECT_EQ(ended.code, code) << arguments << ": " << ended.err << ended.out;
    return ended.out;
  }
};

TEST_F(Resume, GivesTheBitsOfARunThatNeverStopped) {
  for (const char* precision : {"fp32", "bf16"}) {
    const std::string all = std::string("all-") + precision,
                      parts = std::string("parts-") + precision;
    const std::string run = std::string("small.yaml precision=") + precision + " run.dir=";
    go(run + all);
    const std::string said = go(run + parts + " train.stop_at=3", 85);
    EXPECT_TRUE(has(said, "stopped after step 3; checkpoint written. To go on:\n")) << said;
    EXPECT_EQ(rows(parts).size(), 3u);
    EXPECT_EQ(newest(parts).step, 3);
    const std::string resumed = go(run + parts);
    EXPECT_TRUE(has(resumed, "resume  ")) << resumed;
    expect_same_rows(rows(all), rows(parts));
    EXPECT_EQ(newest(all).step, 6);
    EXPECT_EQ(newest(all).tokens, 6 * 5 * 32);
    EXPECT_EQ(newest(all).weights_hash, newest(parts).weights_hash);
  }
}

TEST_F(Resume, ThePrintedCommandGoesOn) {
  for (const char* how : {"", " run.resume=never"}) {
    const std::string said = go(std::string("small.yaml run.dir='a b' train.stop_at=3") + how, 85);
    const size_t begin = said.find("To go on:\n") + 10;
    const std::string command = said.substr(begin, said.find('\n', begin) - begin);
    const Ended ended = run_shell("cd " + folder_.path() + " && " + command);
    EXPECT_EQ(ended.code, 0) << command << ": " << ended.err;
    EXPECT_TRUE(has(ended.out, "resume  ")) << command;
    EXPECT_EQ(newest("a b").step, 6);
  }
}

TEST_F(Resume, AFinishedRunSaysSo) {
  go("small.yaml run.dir=r");
  const std::string metrics = read_file(file("r/metrics.jsonl"));
  const std::string said = go("small.yaml run.dir=r");
  EXPECT_EQ(lines_of(said), 1) << said;
  EXPECT_TRUE(has(said, "finished (6 steps): nothing to do")) << said;
  EXPECT_EQ(read_file(file("r/metrics.jsonl")), metrics);
  // More steps are asked for: it goes on.
  go("small.yaml run.dir=r train.steps=8");
  EXPECT_EQ(rows("r").size(), 8u);
}

TEST_F(Resume, AChangedKeyIsRefusedByName) {
  go("small.yaml run.dir=r train.stop_at=3", 85);
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"optimizer.lr", "1e-3"},       {"optimizer.weight_decay", "0.2"},
      {"optimizer.clip", "2"},        {"model.ffn_width", "64"},
      {"model.vocab", "300"},         {"train.batch", "4"},
      {"train.context", "16"},        {"run.seed", "2"},
      {"loss.l2wrap", "0"},           {"data.source", "skills"},
      {"precision", "bf16"},          {"optimizer.betas", "[0.9, 0.95]"},
      {"data.sampler", "sequential"}, {"data.reset_documents", "true"}};
  for (const auto& [key, value] : changes) {
    expect_refused(program("small.yaml run.dir=r '" + key + "=" + value + "'"),
                   {key + " differs", "step-3"});
  }
  EXPECT_EQ(rows("r").size(), 3u);
  // What does not change the mathematics may change.
  go("small.yaml run.dir=r train.micro_batch=2 log.every=1 parallel.threads=1");
}

// What the run began with may be gone, or be its own folder that has stepped aside.
TEST_F(Resume, TheFirstWeightsAreNotNeededAgain) {
  go("small.yaml run.dir=a");
  go("small.yaml run.dir=b run.init_from=a train.stop_at=2 model.layers=auto model.width=auto", 85);
  std::filesystem::rename(file("a"), file("gone"));
  const std::string more =
      "small.yaml run.dir=b run.init_from=a model.layers=auto model.width=auto";
  EXPECT_TRUE(has(go(more), "resume  "));
  EXPECT_EQ(rows("b").size(), 6u);
  EXPECT_TRUE(has(read_file(file("b/config.yaml")), "/a\n")) << read_file(file("b/config.yaml"));
}

TEST_F(Resume, APathStartsAFreshRunFolder) {
  go("small.yaml run.dir=a checkpoint.every=2");
  go("small.yaml run.dir=b run.resume=a/checkpoints/step-4");
  EXPECT_EQ(newest("b").weights_hash, newest("a").weights_hash);
  const std::vector<StepRow> fresh = rows("b");
  ASSERT_EQ(fresh.size(), 2u);
  EXPECT_EQ(fresh[0].step, 5);
  EXPECT_EQ(rows("a").size(), 6u);  // left alone
  // A run folder as PATH: its newest checkpoint.
  EXPECT_TRUE(has(go("small.yaml run.dir=c run.resume=a train.steps=7"), "a/checkpoints/step-6"));
  // The folder of another run is not fresh.
  expect_refused(program("small.yaml run.dir=b run.resume=c train.steps=9"),
                 {"run.resume", "run.dir"});
  expect_refused(program("small.yaml run.dir=d run.resume=nowhere"), {"run.resume", "nowhere"});
  EXPECT_FALSE(there("d"));
}

TEST_F(Resume, TheSameCommandWithAPathGoesOnInItsOwnFolder) {
  go("small.yaml run.dir=a train.stop_at=2", 85);
  const std::string run = "small.yaml run.dir=b run.resume=a train.stop_at=4";
  go(run, 85);
  EXPECT_TRUE(has(go(run), "b/checkpoints/step-4"));
  EXPECT_EQ(rows("b").size(), 4u);
}

TEST_F(Resume, NeverStartsAnewAndKeepsWhatWasThere) {
  go("small.yaml run.dir=r");
  const CheckpointInfo before = newest("r");
  go("small.yaml run.dir=r run.resume=never run.seed=5 train.stop_at=2", 85);
  EXPECT_EQ(rows("r").size(), 2u);
  EXPECT_EQ(newest("r").step, 2);  // not the old step-6
  EXPECT_EQ(newest("r/before-1").weights_hash, before.weights_hash);
  EXPECT_EQ(rows("r/before-1").size(), 6u);
  // The new run goes on with its own.
  go("small.yaml run.dir=r run.seed=5");
  EXPECT_EQ(rows("r").size(), 6u);
  EXPECT_NE(newest("r").weights_hash, before.weights_hash);
}

TEST_F(Resume, RowsBehindTheCheckpointAreCut) {
  go("small.yaml run.dir=r train.stop_at=4", 85);
  const std::string four = read_file(file("r/metrics.jsonl"));
  go("small.yaml run.dir=r");
  const std::vector<StepRow> all = rows("r");
  // As after a crash: rows of steps 5 and 6 and half a line, but no checkpoint of them.
  std::filesystem::remove_all(file("r/checkpoints/step-6"));
  folder_.write("r/metrics.jsonl", read_file(file("r/metrics.jsonl")) + "{\"step\":7,\"to");
  go("small.yaml run.dir=r");
  expect_same_rows(rows("r"), all);
  EXPECT_TRUE(read_file(file("r/metrics.jsonl")).starts_with(four));
}

TEST_F(Resume, ARunThatDiedBeforeItsFirstCheckpointStartsAnew) {
  go("small.yaml run.dir=r");
  const std::vector<StepRow> all = rows("r");
  std::filesystem::remove_all(file("r/checkpoints"));
  folder_.write("r/metrics.jsonl", "{\"run\":\"another\"}\n");
  go("small.yaml run.dir=r");
  expect_same_rows(rows("r"), all);
  std::string header;
  read_metrics(file("r/metrics.jsonl"), &header);
  EXPECT_TRUE(has(header, "\"run\":\"small\"")) << header;
}

TEST_F(Resume, KeepsAsManyCheckpointsAsAsked) {
  go("small.yaml run.dir=r checkpoint.every=1 checkpoint.keep=2");
  EXPECT_FALSE(there("r/checkpoints/step-4"));
  EXPECT_TRUE(there("r/checkpoints/step-5/index.h5"));
  EXPECT_TRUE(there("r/checkpoints/step-6/index.h5"));
  EXPECT_EQ(read_file(file("r/checkpoints/latest")), "step-6\n");
}

TEST_F(Resume, SignalsStopWithACheckpoint) {
  for (const char* signal : {"TERM", "INT", "USR1"}) {
    const std::string dir = std::string("r") + signal;
    const Ended ended = run_shell(
        "set -m\ncd " + folder_.path() + "\n" + RWKV_PROGRAM + " small.yaml " + kEndless +
            " run.dir=" + dir + " &\nfirst=$!\nuntil [ -e " + dir +
            "/checkpoints/latest ]; do sleep 0.02; done\nkill -" + signal + " $first\nwait $first",
        60);
    EXPECT_EQ(ended.code, 85) << signal << ": " << ended.err;
    EXPECT_TRUE(has(ended.out, "checkpoint written. To go on:")) << ended.out;
    const int64_t step = newest(dir).step;
    EXPECT_EQ(rows(dir).size(), static_cast<size_t>(step));
    const std::string more = std::to_string(step + 2);
    EXPECT_TRUE(has(go("small.yaml run.dir=" + dir + " train.steps=" + more), "resume  "));
    EXPECT_EQ(rows(dir).size(), static_cast<size_t>(step + 2));
  }
}

// mpirun must not wait for a rank that is gone, and what was saved must be good.
TEST_F(Resume, AKilledRankEndsTheJobAndARestartGoesOn) {
  const Ended ended =
      run_shell("cd " + folder_.path() + "\nexport " + mpi_settings() + "\nmpirun -q -n 3 " +
                    RWKV_PROGRAM + " small.yaml " + kEndless + " run.dir=k &\njob=$!\n" +
                    "until [ -e k/checkpoints/latest ]; do sleep 0.02; done\n" +
                    "kill -9 $(pgrep -P $job rwkv-dist | tail -1)\n" +
                    "for i in $(seq 100); do kill -0 $job 2>/dev/null || break; sleep 0.1; done\n" +
                    "kill -0 $job 2>/dev/null && { kill -9 $job; exit 1; }\nwait $job\n" +
                    "code=$?\n[ $code = 0 ] && exit 2\nexit 0",
                60);
  EXPECT_EQ(ended.code, 0) << "1: still running 10 s later, 2: ended with 0. " << ended.err;
  const int64_t step = newest("k").step;
  EXPECT_GE(step, 5);
  const Ended restart = mpi(3, "small.yaml run.dir=k train.steps=" + std::to_string(step + 2));
  EXPECT_EQ(restart.code, 0) << restart.err;
  EXPECT_TRUE(has(restart.out, "resume  ")) << restart.out;
  EXPECT_EQ(rows("k").size(), static_cast<size_t>(step + 2));
  // What the killed job left half written is gone.
  for (const auto& entry : std::filesystem::directory_iterator(file("k/checkpoints"))) {
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
  }
}

// A rank that is there and does nothing is a hang: 86 after parallel.timeout, and a restart goes
// on.
TEST_F(Resume, ARankThatStopsAnsweringEndsTheJobWith86) {
  const Ended ended =
      run_shell("cd " + folder_.path() + "\nexport " + mpi_settings() + "\nmpirun -q -n 3 " +
                    RWKV_PROGRAM + " small.yaml " + kEndless + " run.dir=k parallel.timeout=5 &\n" +
                    "job=$!\nuntil [ -e k/checkpoints/latest ]; do sleep 0.02; done\n" +
                    "kill -STOP $(pgrep -P $job rwkv-dist | tail -1)\nwait $job",
                60);
  EXPECT_EQ(ended.code, 86) << ended.err;
  EXPECT_TRUE(has(ended.err, "another rank did not arrive within 5 s (parallel.timeout)"))
      << ended.err;
  const int64_t step = newest("k").step;
  const Ended restart = mpi(3, "small.yaml run.dir=k train.steps=" + std::to_string(step + 2));
  EXPECT_EQ(restart.code, 0) << restart.err;
}

// What does not count as waiting: to be parked, and to be stopped with all the others.
TEST_F(Resume, ParkedRanksAndStoppedJobsHaveNoTimeLimit) {
  const Ended ended = run_shell(
      "cd " + folder_.path() + "\nexport " + mpi_settings() + "\nmpirun -q -n 3 " + RWKV_PROGRAM +
          " small.yaml " + kEndless + " run.dir=k parallel.timeout=5 train.batch=2 &\n" +
          "job=$!\nuntil [ -e k/checkpoints/latest ]; do sleep 0.02; done\n" +
          "ranks=$(pgrep -P $job rwkv-dist)\nkill -STOP $ranks\nsleep 7\n" +
          "kill -CONT $ranks\nsleep 1\nkill -USR1 $job\nwait $job",
      60);
  EXPECT_EQ(ended.code, 85) << ended.err;
  EXPECT_EQ(ended.err, "");
}

// Twelve pairs of rank counts in two chains; optimizer state split in one of them.
TEST_F(Resume, AnotherNumberOfRanksGoesOnWithTheSameBits) {
  for (const char* precision : {"fp32", "bf16"}) {
    const std::string run = std::string("small.yaml precision=") + precision;
    const std::string all = std::string("all-") + precision;
    go(run + " run.dir=" + all);
    for (const std::vector<int>& ranks : {std::vector<int>{3, 1, 2, 5}, {2, 3, 4, 1}}) {
      const bool split = ranks[0] == 2;
      const std::string dir = std::string(split ? "split-" : "whole-") + precision;
      const std::string how = run + " run.dir=" + dir + (split ? " parallel.shard=optimizer" : "");
      for (size_t i = 0; i < ranks.size(); ++i) {
        const bool last = i + 1 == ranks.size();
        const std::string stop = last ? "" : " train.stop_at=" + std::to_string(i + 1 + i / 2);
        const Ended ended = mpi(ranks[i], how + stop);
        EXPECT_EQ(ended.code, last ? 0 : 85) << ended.err;
        const std::string again = "mpirun -n " + std::to_string(ranks[i]) + " ";
        EXPECT_TRUE(last || ranks[i] == 1 || has(ended.out, again)) << ended.out;
        EXPECT_FALSE(has(ended.out, "the bits are others")) << ended.out;
      }
      expect_same_rows(rows(all), rows(dir));
      EXPECT_EQ(newest(all).weights_hash, newest(dir).weights_hash) << dir;
      EXPECT_TRUE(there(dir + "/checkpoints/step-4/rank-1.h5"));
    }
  }
}

TEST_F(Resume, OtherNumericsAreSaid) {
  go("small.yaml run.dir=r train.stop_at=2", 85);
  const std::string said = go("small.yaml run.dir=r parallel.reduction=fast");
  EXPECT_TRUE(has(said, "exact leaf 512 tile 128 (")) << said;
  EXPECT_TRUE(has(said, ")', this run by '")) << said;
  EXPECT_TRUE(has(said, "oneDNN ")) << said;
  EXPECT_TRUE(has(said, "from here on the bits are others")) << said;
}

}  // namespace
}  // namespace rwkv
