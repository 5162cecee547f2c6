// Checkpoints as a user meets them: verify, going on after damage, disks that are full, kill -9.
#include "core/base/hash.h"
#include "core/base/posix_file.h"
#include "core/base/rng.h"
#include "tests/launcher/launcher_test_support.h"
#include "tests/support/small_disk.h"

namespace rwkv {
namespace {

using namespace test;
namespace fs = std::filesystem;

class Verify : public SmallRun {
 protected:
  void train(const std::string& arguments, int code = 0) const {
    const Ended ended = program("small.yaml " + arguments);
    ASSERT_EQ(ended.code, code) << arguments << ": " << ended.err << ended.out;
  }
  std::string step(const std::string& run, int64_t n) const {
    return run + "/checkpoints/step-" + std::to_string(n);
  }
  // One bit in the middle of a file.
  void flip(const std::string& name) const {
    std::string content = read_file(file(name));
    content[content.size() / 2] = static_cast<char>(content[content.size() / 2] ^ 4);
    folder_.write(name, content);
  }
  std::string hash_of(const std::string& run) const { return to_hex(newest(run).weights_hash); }
};

TEST_F(Verify, HasALineForEveryCheckpoint) {
  train("run.dir=r checkpoint.every=3");
  const Ended all = program("verify r");
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_EQ(lines_of(all.out), 2) << all.out;
  EXPECT_TRUE(all.out.starts_with("step-3: good, 2 files, ")) << all.out;
  EXPECT_TRUE(has(all.out, "\nstep-6: good, 2 files, ")) << all.out;
  EXPECT_TRUE(all.out.ends_with(" KiB, weights " + hash_of("r") + "\n")) << all.out;
  const Ended one = program("verify r/checkpoints/step-3/");
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_EQ(one.out, all.out.substr(0, all.out.find('\n') + 1));
}

TEST_F(Verify, NamesWhatIsDamagedAndEndsWith88) {
  EXPECT_EQ(mpi(2, "small.yaml run.dir=r checkpoint.every=3").code, 0);
  flip(step("r", 3) + "/rank-1.h5");
  for (const Ended& ended : {program("verify r"), mpi(2, "verify r")}) {
    EXPECT_EQ(ended.code, 88);
    EXPECT_EQ(ended.err, "");
    EXPECT_EQ(lines_of(ended.out), 2) << ended.out;
    EXPECT_TRUE(has(ended.out, "step-3: rank-1.h5: content changed (hash ")) << ended.out;
    EXPECT_TRUE(has(ended.out, "step-6: good, 3 files, ")) << ended.out;
  }
}

TEST_F(Verify, RefusesWhatHoldsNoCheckpoint) {
  expect_refused(program("verify nowhere"), {"nowhere: holds no checkpoint"});
  expect_refused(program("verify ."), {"holds no checkpoint"});
  expect_refused(program("verify"), {"CHECKPOINT"});
}

TEST_F(Verify, WorksWhereNothingCanBeWritten) {
  const SmallDisk disk(file("disk"));
  if (!disk.ready()) GTEST_SKIP() << "mounting a tmpfs is not permitted";
  train("run.dir=disk/r");
  ASSERT_TRUE(disk.freeze());
  const Ended ended = program("verify disk/r");
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_TRUE(has(ended.out, "step-6: good")) << ended.out;
  EXPECT_EQ(program("eval disk/r").code, 0);
}

TEST_F(Verify, ARunGoesOnFromTheOneBeforeADamagedOne) {
  train("run.dir=all");
  for (int ranks : {1, 2}) {
    const std::string dir = "r" + std::to_string(ranks), run = "small.yaml run.dir=" + dir;
    const auto go = [&](const std::string& more) {
      return ranks == 1 ? program(run + more) : mpi(ranks, run + more);
    };
    ASSERT_EQ(go(" checkpoint.every=2 train.stop_at=4").code, 85);
    flip(step(dir, 4) + "/rank-" + std::to_string(ranks - 1) + ".h5");
    const Ended ended = go("");
    EXPECT_EQ(ended.code, 0) << ended.err;
    const std::string fault =
        "checkpoint step-4: rank-" + std::to_string(ranks - 1) + ".h5: content changed (hash ";
    EXPECT_TRUE(ended.out.starts_with(fault)) << ended.out;
    EXPECT_TRUE(has(ended.out, "checkpoints/step-2 · step 2\n")) << ended.out;
    EXPECT_EQ(rows(dir).size(), 6u);
    EXPECT_TRUE(there(step(dir, 4) + ".damaged/index.h5"));
    EXPECT_FALSE(there(step(dir, 4)));
    EXPECT_EQ(program("verify " + dir).code, 0);
    if (ranks == 1) {
      EXPECT_EQ(hash_of(dir), hash_of("all"));
    }
  }
}

TEST_F(Verify, WithoutAGoodOneNothingIsTouched) {
  train("run.dir=r checkpoint.every=2 train.stop_at=4", 85);
  flip(step("r", 4) + "/rank-0.h5");
  fs::remove(file(step("r", 2) + "/index.h5"));
  expect_refused(
      program("small.yaml run.dir=r"),
      {"r/checkpoints: checkpoint step-4: rank-0.h5: content changed", "run.resume=never"});
  EXPECT_EQ(rows("r").size(), 4u);
  EXPECT_TRUE(there(step("r", 4) + "/index.h5"));
  expect_refused(program("small.yaml run.dir=b run.resume=r"), {"step-4: rank-0.h5: content"});
  expect_refused(program("small.yaml run.dir=b run.init_from=r"), {"step-4/rank-0.h5: content"});
  EXPECT_FALSE(there("b"));
  expect_refused(program("eval r"), {"step-4/rank-0.h5: content changed"});
  expect_refused(program("generate r --tokens 1"), {"step-4/rank-0.h5: content changed"});
}

TEST_F(Verify, TheIdOfARunOutlivesAResume) {
  train("run.dir=r train.stop_at=2", 85);
  const std::string id = newest("r").run_id;
  EXPECT_EQ(id.size(), 16u);
  train("run.dir=r");
  EXPECT_EQ(newest("r").run_id, id);
  train("run.dir=b run.resume=r/checkpoints/step-2");
  EXPECT_NE(newest("b").run_id, id);
}

// The disk is full for a while: the run goes on, saves when there is room again, and says how often
// it could not.
TEST_F(Verify, ARunOutlivesAFullDisk) {
  const SmallDisk disk(file("disk"), 4);
  if (!disk.ready()) GTEST_SKIP() << "mounting a tmpfs is not permitted";
  const std::string wait = "for i in $(seq 1000); do sleep 0.02; ";
  for (int ranks : {1, 2}) {
    const std::string dir = "disk/r" + std::to_string(ranks);
    const std::string launch =
        ranks == 1 ? "" : "env " + mpi_settings() + "mpirun -q -n " + std::to_string(ranks) + " ";
    const Ended ended =
        run_shell("set -m\ncd " + folder_.path() + "\nhead -c 3600000 /dev/zero >disk/filler\n" +
                      launch + RWKV_PROGRAM + " small.yaml " + kEndless +
                      " checkpoint.keep=1 run.dir=" + dir + " >said.txt &\njob=$!\n" + wait +
                      "grep -q warning said.txt && break; done\n" + "test ! -e " + dir +
                      "/checkpoints/latest || exit 1\nrm disk/filler\n" + wait + "[ -e " + dir +
                      "/checkpoints/latest ] && break; done\n" + "kill -USR1 $job\nwait $job\n",
                  60);
    const std::string said = read_file(file("said.txt"));
    EXPECT_EQ(ended.code, 85) << ended.err << said;
    EXPECT_TRUE(has(said, " could not be written, the first after step 5\n")) << said;
    EXPECT_TRUE(has(said, "warning checkpoint step-5 was not written, the run goes on: ")) << said;
    EXPECT_TRUE(has(said, "No space left on device")) << said;
    const Ended verified = program("verify " + dir);
    EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
    fs::remove_all(file(dir));
  }
}

// A limit on the size of files, where mounting is not permitted: metrics fit below it.
TEST_F(Verify, FailedCheckpointsAreCountedAndTheLastOneMustWork) {
  const std::string limited = "trap '' XFSZ; cd " + folder_.path() + "; ulimit -f 64; exec ";
  const Ended ended =
      run_shell(limited + RWKV_PROGRAM + " small.yaml run.dir=r checkpoint.every=2");
  EXPECT_EQ(ended.code, 87);
  EXPECT_EQ(lines_of(ended.err), 1) << ended.err;
  EXPECT_TRUE(has(ended.err, "r/checkpoints/step-6.tmp/rank-0.h5: ")) << ended.err;
  for (const char* name : {"step-2", "step-4"}) {
    EXPECT_TRUE(has(ended.out, "warning checkpoint " + std::string(name))) << ended.out;
  }
  EXPECT_TRUE(fs::is_empty(file("r/checkpoints")));
  EXPECT_EQ(rows("r").size(), 6u);
}

// Most of the time goes into saving, so most kills fall into it. Whatever the moment, all that is
// named step-N is good, and the bits at the end are those of a run that was left alone.
TEST_F(Verify, KillsAtAnyMomentLeaveGoodCheckpointsAndTheSameBits) {
  const std::string run = "small.yaml optimizer.schedule=constant eval.every=0 train.steps=";
  const Philox random(7, "kills");
  int64_t before = 0;
  for (uint64_t kill = 0; kill < 10; ++kill) {
    const double seconds = 0.05 + 0.5 * random.uniform(kill);
    const Ended ended =
        run_shell("cd " + folder_.path() + "\n" + RWKV_PROGRAM + " " + run +
                  "10000000 checkpoint.every=1 run.dir=k >said.txt &\njob=$!\n" +
                  (kill == 0 ? "until [ -e k/checkpoints/latest ]; do sleep 0.01; done\n" : "") +
                  "sleep " + std::to_string(seconds) + "\nkill -9 $job\nwait $job");
    ASSERT_EQ(ended.code, 137) << ended.err;
    EXPECT_FALSE(has(read_file(file("said.txt")), "checkpoint step-")) << kill;
    const Ended verified = program("verify k");
    ASSERT_EQ(verified.code, 0) << kill << ": " << verified.out << verified.err;
    const int64_t step = newest("k").step;
    EXPECT_GE(step, before);
    before = step;
  }
  const std::string steps = std::to_string(before + 2);
  ASSERT_EQ(program(run + steps + " run.dir=k").code, 0);
  ASSERT_EQ(program(run + steps + " run.dir=alone").code, 0);
  EXPECT_EQ(hash_of("k"), hash_of("alone"));
  const std::vector<StepRow> killed = rows("k"), alone = rows("alone");
  ASSERT_EQ(killed.size(), alone.size());
  for (size_t i = 0; i < killed.size(); ++i) EXPECT_EQ(killed[i].loss, alone[i].loss) << i;
  for (const auto& entry : fs::directory_iterator(file("k/checkpoints"))) {
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
  }
}

TEST_F(Verify, TheExampleReadsWhatWasWritten) {
  const std::string python = "/usr/bin/python3";
  if (run_shell(python + " -c 'import h5py'").code != 0) GTEST_SKIP() << "no h5py";
  EXPECT_EQ(mpi(3, "small.yaml run.dir=r").code, 0);
  const std::string script =
      python + " " + RWKV_SOURCE_DIR + "/scripts/examples/read_checkpoint.py ";
  const Ended shown = run_shell(script + file(step("r", 6)));
  EXPECT_EQ(shown.code, 0) << shown.err;
  // Every parameter has a line with a shape and a norm that is a number: nothing was left open.
  const auto shapes = checkpoint_shapes(file(step("r", 6)));
  EXPECT_EQ(lines_of(shown.out), static_cast<int64_t>(shapes.size()));
  for (const auto& [name, shape] : shapes) EXPECT_TRUE(has(shown.out, name + " ")) << name;
  EXPECT_TRUE(has(shown.out, "257x32 ")) << shown.out;
  EXPECT_FALSE(has(shown.out, "nan")) << shown.out;
  for (const char* kind : {" moment1", " moment2"}) {
    EXPECT_EQ(run_shell(script + file(step("r", 6)) + kind).code, 0) << kind;
  }
}

}  // namespace
}  // namespace rwkv
