// What the program says, and what it ends with, when something is wrong: one line, the right code,
// nothing created.

#include "core/base/posix_file.h"
#include "tests/launcher/launcher_test_support.h"
#include "tests/support/small_disk.h"

namespace rwkv {
namespace {

using namespace test;

struct Mistake {
  std::string name, recipe, place, words;
};

std::string with_line(const std::string& line) { return std::string(kSmallRecipe) + line + "\n"; }

const std::vector<Mistake>& mistakes() {
  static const std::vector<Mistake> all = {
      {"UnknownKey", with_line("log: {evry: 2}"), "small.yaml:7:7: ", "did you mean 'log.every'"},
      {"UnknownSection", with_line("trian: {steps: 3}"), "small.yaml:7:1: ", "trian"},
      {"DuplicateKey", with_line("run:\n  seed: 1\n  seed: 2"), "small.yaml:9:3: ", "run.seed"},
      {"DuplicateSection", with_line("loss: {}\nloss: {}"), "small.yaml:8:1: ", "loss"},
      {"WrongType", with_line("log: {every: often}"), "small.yaml:7:7: ", "log.every"},
      {"OutOfRange", with_line("run: {seed: -1}"), "small.yaml:7:7: ", "run.seed"},
      {"NotYetTensor", with_line("parallel: {tensor: 2}"), "small.yaml:7:12: ", "parallel.tensor"},
      {"NotYaml", "model: {layers: 2\ntrain: [", "small.yaml:", ""},
      {"Empty", "", "small.yaml", "required"},
  };
  return all;
}

class RecipeMistakes : public SmallRun, public testing::WithParamInterface<Mistake> {};

TEST_P(RecipeMistakes, EndWithOneLineAndCreateNothing) {
  folder_.write("small.yaml", GetParam().recipe);
  const Ended ended = program("small.yaml");
  expect_refused(ended, {GetParam().place, GetParam().words});
  EXPECT_EQ(ended.err.find(GetParam().place), 0u) << ended.err;
  EXPECT_FALSE(there("runs"));
}

INSTANTIATE_TEST_SUITE_P(All, RecipeMistakes, testing::ValuesIn(mistakes()),
                         [](const auto& test) { return test.param.name; });

class Errors : public SmallRun {};

TEST_F(Errors, OverridesAreRefusedByName) {
  expect_refused(program("small.yaml train.stepz=4"), {"train.stepz=4: ", "'train.steps'"});
  expect_refused(program("small.yaml train.steps=4.5"), {"train.steps=4.5: ", "integer"});
  expect_refused(program("small.yaml train.chunk=16"), {"train.chunk", "parallel.leaf (512): 512"});
  expect_refused(program("small.yaml precision=fp8"), {"precision", "fp32"});
  EXPECT_FALSE(there("runs"));
}

TEST_F(Errors, AMissingRecipeIsNamed) {
  expect_refused(program("nowhere.yaml"), {"nowhere.yaml: no such file"});
  expect_refused(mpi(2, "nowhere.yaml"), {"nowhere.yaml: no such file"});
}

TEST_F(Errors, MissingDataIsNamedBeforeAnythingIsCreated) {
  expect_refused(program("small.yaml data.source=text data.path=none.txt"), {"none.txt"});
  expect_refused(program("small.yaml data.source=binidx data.path=absent"), {"absent.bin"});
  expect_refused(program("small.yaml run.init_from=none.pth"), {"none.pth"});
  expect_refused(program("small.yaml data.source=text"), {"data.path"});
  EXPECT_FALSE(there("runs"));
}

TEST_F(Errors, TooLittleDataNamesTheTokensNeeded) {
  folder_.write("short.txt", "twelve bytes");
  expect_refused(program("small.yaml data.source=text data.path=short.txt"),
                 {"short.txt", "needs 33 tokens"});
}

TEST_F(Errors, OnThreeRanksOneLineIsSaid) {
  folder_.write("small.yaml", with_line("log: {evry: 2}"));
  expect_refused(mpi(3, "small.yaml"), {"small.yaml:7:7: ", "log.every"});
  expect_refused(mpi(3, "small.yaml --frob"), {"--frob", "--help"});
  expect_refused(mpi(3, "flight x"), {"flight: not yet"});
  EXPECT_FALSE(there("runs"));
}

TEST_F(Errors, MoreDataRanksThanThereAreIsRefused) {
  expect_refused(mpi(2, "small.yaml train.batch=16 parallel.data=9"),
                 {"parallel.data", "9 ranks", "has 2", "mpirun -n 9"});
  expect_refused(program("small.yaml parallel.data=9"),
                 {"parallel.data=9: parallel.data: a step has only 5 sequences"});
  expect_refused(
      program("small.yaml train.batch=65536 parallel.data=65536 parallel.sequence=65536"),
      {"65536 x 65536 = 4294967296 ranks"});
  EXPECT_FALSE(there("runs"));
}

TEST_F(Errors, BadCommandLinesPointToHelp) {
  for (const char* line : {"--frob", "small.yaml --frob", "bogus", "train", "eval", "generate",
                           "check small.yaml --ranks 0", "generate x --temperature -1",
                           "generate x --prompt a --prompt-file b"}) {
    expect_refused(program(line), {"rwkv-dist --help"});
  }
}

// A stream whose last tokens are above the vocabulary.
std::string bytes_with_a_high_end() { return std::string(1200, 'a') + std::string(200, '\xfe'); }

TEST_F(Errors, ATokenAboveTheVocabularyIsNamedWithItsPlace) {
  folder_.write("high.txt", bytes_with_a_high_end());
  const std::string run = "small.yaml data.source=text data.path=high.txt model.vocab=120 ";
  const Ended one = program(run + "run.dir=one");
  EXPECT_EQ(one.code, 88);
  EXPECT_EQ(lines_of(one.err), 1);
  for (const char* part : {"high.txt: ", "token 255", "position", "model.vocab 120"}) {
    EXPECT_TRUE(has(one.err, part)) << part << ": " << one.err;
  }
  const Ended three = mpi(3, run + "run.dir=three");
  EXPECT_EQ(three.code, 88);
  EXPECT_TRUE(has(three.err, "token 255")) << three.err;
  EXPECT_TRUE(has(three.err, "model.vocab 120")) << three.err;
}

template <class T>
void append(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

TEST_F(Errors, ATokenOfABinidxAboveTheVocabularyIsNamed) {
  constexpr int32_t kTokens = 1400;
  std::string bin, idx("MMIDIDX\0\0", 9);
  for (int32_t t = 0; t < kTokens; ++t) append(bin, static_cast<uint16_t>(t < 1300 ? t % 50 : 777));
  append(idx, uint64_t{1});  // version
  append(idx, uint8_t{8});   // 16-bit tokens
  append(idx, uint64_t{1});  // sequences
  append(idx, uint64_t{2});  // documents, and one
  append(idx, kTokens);
  for (int64_t x : {0, 0, 1}) append(idx, x);  // offset of the sequence, bounds of the document
  folder_.write("high.bin", bin);
  folder_.write("high.idx", idx);
  const std::string run = "small.yaml data.source=binidx data.path=high model.vocab=64 ";
  for (int ranks : {1, 3}) {
    const std::string given = run + "run.dir=r" + std::to_string(ranks);
    const Ended ended = ranks == 1 ? program(given) : mpi(ranks, given);
    EXPECT_EQ(ended.code, 88) << ended.err;
    for (const char* part : {"high.bin", "token 777", "model.vocab 64"}) {
      EXPECT_TRUE(has(ended.err, part)) << part << ": " << ended.err;
    }
  }
}

TEST_F(Errors, ALockedRunFolderIsRefusedAndLeftAlone) {
  const Ended ended = run_shell(
      "cd " + folder_.path() + "\n" + RWKV_PROGRAM + " small.yaml " + kEndless +
          " run.dir=locked >one.txt 2>&1 &\nfirst=$!\n" +
          "until [ -e locked/checkpoints/latest ]; do sleep 0.02; done\n" + RWKV_PROGRAM +
          " small.yaml " + kEndless + " run.dir=locked\ncode=$?\nkill -0 $first || code=1\n" +
          "kill -9 $first\nexit $code",
      60);
  EXPECT_EQ(ended.code, 88) << ended.err;
  EXPECT_TRUE(has(ended.err, "locked is in use by another job")) << ended.err;
  // The lock goes with its job, whatever way that ended.
  const Ended after = program(std::string("small.yaml run.dir=locked train.steps=") +
                              std::to_string(newest("locked").step));
  EXPECT_EQ(after.code, 0) << after.err;
}

TEST_F(Errors, AFileWhereTheRunFolderShouldBeIsNamed) {
  folder_.write("taken", "x");
  const Ended ended = program("small.yaml run.dir=taken");
  EXPECT_EQ(ended.code, 87);
  EXPECT_EQ(lines_of(ended.err), 1);
  EXPECT_TRUE(has(ended.err, "taken: exists and is not a folder")) << ended.err;
  EXPECT_EQ(read_file(file("taken")), "x");
}

TEST_F(Errors, AFullDiskNamesTheFileAndKeepsTheEarlierCheckpoint) {
  const SmallDisk disk(file("disk"));
  if (!disk.ready()) GTEST_SKIP() << "mounting a tmpfs is not permitted";
  // 56,689 parameters: a checkpoint takes about 680 kB of the megabyte, two do not fit.
  for (int ranks : {1, 2}) {
    const std::string dir = "disk/r" + std::to_string(ranks);
    const std::string run = "small.yaml run.dir=" + dir;
    EXPECT_EQ(program(run + " train.stop_at=2").code, 85);
    const Ended ended = ranks == 1 ? program(run) : mpi(ranks, run);
    EXPECT_EQ(ended.code, 87) << ended.err;
    EXPECT_EQ(lines_of(ended.err), 1) << ended.err;
    EXPECT_TRUE(has(ended.err, dir + "/checkpoints/step-6.tmp")) << ended.err;
    EXPECT_TRUE(has(ended.err, "No space left on device")) << ended.err;
    EXPECT_EQ(newest(dir).step, 2);
    EXPECT_FALSE(there(dir + "/checkpoints/step-6.tmp"));
    // The earlier checkpoint is whole: a run elsewhere goes on from it.
    const Ended on =
        program("small.yaml run.resume=" + dir + " run.dir=on" + std::to_string(ranks));
    EXPECT_EQ(on.code, 0) << on.err;
    EXPECT_EQ(rows("on" + std::to_string(ranks)).size(), 4u);
    std::filesystem::remove_all(file(dir));
  }
}

}  // namespace
}  // namespace rwkv
