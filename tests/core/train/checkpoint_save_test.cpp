// Saving that fails, that is repeated, and that goes on after damage.
#include <hdf5.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "core/base/posix_file.h"
#include "parallel/agree.h"
#include "tests/core/train/checkpoint_fixture.h"
#include "tests/support/small_disk.h"

namespace rwkv {
namespace {

using Saving = TwoRuns;

// A limit on the size of files is what a test can do for a full disk anywhere.
class SizeLimit {
 public:
  explicit SizeLimit(rlim_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit now{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &now);
  }
  SizeLimit(const SizeLimit&) = delete;
  SizeLimit& operator=(const SizeLimit&) = delete;
  ~SizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_{};
  void (*old_handler_)(int) = nullptr;
};

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

TEST_F(Saving, InAThreadKeepsWhatTheWeightsWere) {
  const Recipe recipe = recipe_of(in("a"));
  const CheckpointInfo info{.step = 6,
                            .tokens = 288,
                            .recipe = to_yaml(recipe),
                            .numerics = "n",
                            .run_id = "a",
                            .products = "a library\n1 2 3\n"};
  run_local(2, [&](Communicator& ranks) {
    ParamStore store = make_store(recipe);
    fill(store, 6);
    const uint64_t hash = store.hash();
    PendingCheckpoint pending(in("a/checkpoints"), info, store, 0, ranks);
    EXPECT_EQ(pending.step(), 6);
    fill(store, 7);  // training goes on
    EXPECT_FALSE(fs::exists(step(6)));
    ranks.barrier();
    pending.finish();
    EXPECT_TRUE(pending.written());
    EXPECT_EQ(read_checkpoint_info(step(6)).weights_hash, hash);
    EXPECT_EQ(read_checkpoint_info(step(6)).products, info.products);
    load_checkpoint(step(6), store, true);
    EXPECT_EQ(store.hash(), hash);
    EXPECT_EQ(store.moment2(0).as<float>()[0], 6);
  });
  EXPECT_EQ(verify_checkpoint(step(6)).fault, "");
  EXPECT_EQ(read_file(in("a/checkpoints/latest")), "step-6\n");
}

TEST_F(Saving, InAThreadDoesNotCountBeforeItIsFinished) {
  const Recipe recipe = recipe_of(in("a"));
  const CheckpointInfo info{
      .step = 6, .tokens = 288, .recipe = to_yaml(recipe), .numerics = "n", .run_id = "a"};
  const ParamStore store = make_store(recipe);
  const auto self = make_self();
  { const PendingCheckpoint given_up(in("a/checkpoints"), info, store, 0, *self); }
  EXPECT_EQ(resume().step, 4);
  save(in("a"), "a", 8);  // and what it left goes with the next
  EXPECT_EQ(names_in(in("a/checkpoints")),
            (std::vector<std::string>{"latest", "step-2", "step-4", "step-8"}));
}

// In a process of its own: the library cannot close a file whose end it may not write.
void fail_to_save(const std::string& run, rlim_t bytes) {
  const SizeLimit limit(bytes);
  const std::string said = message_of<AgreedError>([&] { save(run, "a", 6, 1); });
  std::fputs(said.c_str(), stderr);
  _exit(7);
}

TEST_F(Saving, ThatFailsLeavesTheOthersAndNothingElse) {
  for (rlim_t bytes : {rlim_t{4096}, rlim_t{200}}) {
    EXPECT_EXIT(fail_to_save(in("a"), bytes), testing::ExitedWithCode(7), "step-6.tmp/rank-");
    EXPECT_EQ(names_in(in("a/checkpoints")),
              (std::vector<std::string>{"latest", "step-2", "step-4"}));
  }
  EXPECT_EQ(resume().step, 4);
  EXPECT_EQ(verify_checkpoint(step(2)).fault, "");
  save(in("a"), "a", 6);
  EXPECT_EQ(verify_checkpoint(step(6)).fault, "");
}

// On a disk that is full at once, and on one that gets full on the way: what was open is closed.
// (Where its last page goes to the library's own last write, HDF5 keeps the name of a file that it
// has closed; a tmpfs counts its pages a processor, so that no test can stay clear of that by a
// page.)
TEST_F(Saving, GoesOnWhenAFullDiskGetsRoom) {
  const test::SmallDisk disk(in("disk"));
  if (!disk.ready()) GTEST_SKIP() << "mounting a tmpfs is not permitted";
  const auto open_files = [] { return names_in("/proc/self/fd").size(); };
  const std::string run = in("disk/run");
  save(run, "a", 2);
  const size_t before = open_files();
  const auto free = fs::space(in("disk")).free;
  const ParamStore store = make_store(recipe_of(run));
  const auto data = static_cast<uintmax_t>(3 * 4 * count_elements(store.specs()));
  // Room for nothing; for half of the numbers.
  for (uintmax_t left : {uintmax_t{0}, data / 2}) {
    overwrite(in("disk/filler"), std::string(free - left, 'x'));
    const std::string said = message_of<AgreedError>([&] { save(run, "a", 4); });
    EXPECT_TRUE(contains(said, run + "/checkpoints/")) << said;
    EXPECT_TRUE(contains(said, "No space left on device")) << said;
    EXPECT_EQ(open_files(), before);
    EXPECT_EQ(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_FILE), 0);
    EXPECT_EQ(names_in(run + "/checkpoints"), (std::vector<std::string>{"latest", "step-2"}));
  }
  fs::remove(in("disk/filler"));
  save(run, "a", 4);
  EXPECT_EQ(verify_checkpoint(run + "/checkpoints/step-4").fault, "");
}

// What cannot be removed (here: a mount; elsewhere a file that somebody has open) is left.
TEST_F(Saving, GoesOnBesideWhatCannotBeRemoved) {
  save(in("a"), "a", 2);
  const test::SmallDisk left(step(1) + ".removed.tmp"), old(step(2) + "/mount");
  if (!left.ready() || !old.ready()) GTEST_SKIP() << "mounting a tmpfs is not permitted";
  for (const int64_t next : {4, 6, 8}) save(in("a"), "a", next);
  EXPECT_EQ(verify_checkpoint(step(8)).fault, "");
  EXPECT_EQ(resume().step, 8);
}

TEST_F(Saving, RemovesWhatWasNeverFinished) {
  fs::copy(step(4), step(5) + ".tmp");
  fs::create_directory(step(4) + ".replaced.tmp");
  fs::create_directory(in("a/checkpoints/mine.tmp"));
  save(in("a"), "a", 6);
  EXPECT_EQ(names_in(in("a/checkpoints")),
            (std::vector<std::string>{"latest", "mine.tmp", "step-2", "step-4", "step-6"}));
}

TEST_F(Saving, ReplacesACheckpointOfTheSameStep) {
  fs::remove(step(4) + "/rank-1.h5");
  save(in("a"), "a", 4);
  EXPECT_EQ(resume().step, 4);
  EXPECT_EQ(names_in(in("a/checkpoints")),
            (std::vector<std::string>{"latest", "step-2", "step-4"}));
}

// A damaged one must neither take the place of a good one that is kept, nor be resumed from when
// its fault was one of the moment.
TEST_F(Saving, CountsOnlyWhatTheRunStandsOn) {
  fs::remove(step(4) + "/rank-1.h5");
  const ResumePoint point = resume();
  set_checkpoints_aside(point.damaged, point.checkpoint);
  EXPECT_EQ(read_file(in("a/checkpoints/latest")), "step-2\n");
  save(in("a"), "a", 3, 1);
  EXPECT_EQ(names_in(in("a/checkpoints")),
            (std::vector<std::string>{"latest", "step-3", "step-4.damaged"}));
  save(in("a"), "a", 4);
  fs::remove(step(4) + "/rank-0.h5");
  set_checkpoints_aside({step(4)}, step(3));
  EXPECT_TRUE(fs::exists(step(4) + ".damaged-2"));
  // Were it not set aside, the one just written would still not go.
  save(in("b"), "b", 3, 1);
  EXPECT_EQ(names_in(in("b/checkpoints")),
            (std::vector<std::string>{"latest", "step-3", "step-4"}));
}

TEST(RunId, IsAnotherEachTime) {
  const std::string one = make_run_id();
  EXPECT_EQ(one.size(), 16u);
  EXPECT_NE(one, make_run_id());
}

}  // namespace
}  // namespace rwkv
