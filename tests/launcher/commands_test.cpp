// Every sub-command as a user meets it.
#include <cmath>

#include "core/base/posix_file.h"
#include "core/io/hdf5_file.h"
#include "core/plan/param_table.h"
#include "tests/launcher/launcher_test_support.h"
#include "tests/support/golden.h"

namespace rwkv {
namespace {

using namespace test;

class Commands : public SmallRun {
 protected:
  // Standard output of a command that must succeed and say nothing on stderr.
  std::string said(const std::string& arguments) const {
    const Ended ended = program(arguments);
    EXPECT_EQ(ended.code, 0) << arguments << ": " << ended.err;
    EXPECT_EQ(ended.err, "") << arguments;
    return ended.out;
  }
  int64_t entries() const {
    return std::distance(std::filesystem::directory_iterator(folder_.path()), {});
  }
};

TEST_F(Commands, HelpIsPrintedForNoArgumentsAndOnRequest) {
  const std::string help = said("");
  EXPECT_EQ(said("--help"), help);
  for (const char* word : {"train", "check", "eval", "generate", "report", "doctor",
                           "optimizer.weight_decay", "train.context"}) {
    EXPECT_TRUE(has(help, word)) << word;
  }
  const std::vector<std::pair<std::string, std::string>> commands = {
      {"train", "RECIPE"},     {"check", "--params"},   {"eval", "--dump"},
      {"generate", "--top-p"}, {"report", "RUN_DIR"},   {"doctor", "doctor"},
      {"data", "not yet"},     {"import", "not yet"},   {"export", "not yet"},
      {"flight", "not yet"},   {"small.yaml", "RECIPE"}};
  for (const auto& [command, word] : commands) {
    EXPECT_TRUE(has(said(command + " --help"), word)) << command;
  }
  EXPECT_EQ(entries(), 1);
  const Ended three = mpi(3, "--help");
  EXPECT_EQ(three.code, 0);
  EXPECT_EQ(three.out, help);  // once
}

TEST_F(Commands, VersionIsOneLine) {
  const std::string version = said("--version");
  EXPECT_EQ(lines_of(version), 1);
  EXPECT_EQ(version.find("rwkv-dist "), 0u);
}

TEST_F(Commands, TheOthersAreNotYetThere) {
  for (const char* command : {"data pack x", "import a b.h5", "export r --to pth o", "flight d"}) {
    expect_refused(program(command), {"not yet"});
  }
}

TEST_F(Commands, TrainMayBeWrittenOut) {
  said("train small.yaml run.dir=a");
  said("small.yaml run.dir=b");
  EXPECT_EQ(newest("a").weights_hash, newest("b").weights_hash);
}

TEST_F(Commands, CheckPrintsThePlanAndCreatesNothing) {
  const std::string plan = said("check small.yaml");
  for (const char* word :
       {"valid", "model  ", "mesh  ", "data 1 x sequence 1", "160 tokens", "stash", "passes",
        "FLOPs", "weights", "planned", "baseline", "digit reversal"}) {
    EXPECT_TRUE(has(plan, word)) << word << " in " << plan;
  }
  EXPECT_TRUE(has(said("check small.yaml --ranks 7"), "7 ranks: data 5 x sequence 1, 2 parked"));
  EXPECT_TRUE(has(said("check small.yaml train.recompute=block"), "recompute"));
  EXPECT_EQ(mpi(3, "check small.yaml").out.find("recipe"), 0u);
  expect_refused(program("check small.yaml train.stepz=1"), {"train.stepz"});
  expect_refused(program("check small.yaml data.source=text data.path=none.txt"), {"none.txt"});
  EXPECT_EQ(entries(), 1);
}

TEST_F(Commands, CheckPrintsTheParametersOfTheGoldenModel) {
  const Golden golden("model_a.h5");
  const ModelConfig model = golden.model();
  int64_t elements = 0;
  std::vector<std::string> names;
  for (const ParamSpec& spec : param_table(model)) {
    elements += golden.shape("params/" + spec.name).elements();
    names.push_back(spec.name);
  }
  const std::string table =
      said("check small.yaml --params model.layers=" + std::to_string(model.layers) +
           " model.width=" + std::to_string(model.width) + " model.head_size=" +
           std::to_string(model.head_size) + " model.ffn_width=" + std::to_string(model.ffn_width) +
           " model.vocab=" + std::to_string(model.vocab) +
           " model.lora_rank.decay=" + std::to_string(model.lora_rank.decay) +
           " model.lora_rank.iclr=" + std::to_string(model.lora_rank.iclr) +
           " model.lora_rank.value=" + std::to_string(model.lora_rank.value) +
           " model.lora_rank.gate=" + std::to_string(model.lora_rank.gate));
  EXPECT_TRUE(has(table, "\n" + std::to_string(elements) + " parameters\n")) << table;
  for (const std::string& name : names) EXPECT_TRUE(has(table, "\n" + name + " ")) << name;
  EXPECT_EQ(lines_of(table), static_cast<int64_t>(names.size()) + 2);
  EXPECT_EQ(entries(), 1);
}

TEST_F(Commands, ReportWritesThePage) {
  said("small.yaml run.dir=r");
  std::filesystem::remove(file("r/report.html"));
  EXPECT_TRUE(has(said("report r"), "r/report.html"));
  EXPECT_TRUE(has(read_file(file("r/report.html")), "</html>"));
  expect_refused(program("report nowhere"), {"nowhere"});
  EXPECT_FALSE(there("nowhere"));
}

TEST_F(Commands, DoctorPrintsFacts) {
  const std::string facts = said("doctor");
  for (const char* word : {"rwkv-dist ", "cores", "GFLOP/s", "ranks"}) {
    EXPECT_TRUE(has(facts, word)) << word;
  }
  EXPECT_EQ(entries(), 1);
}

TEST_F(Commands, TrainingOnTextHoldsOutAFraction) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "line " + std::to_string(i * i % 97) + "\n";
  folder_.write("text.txt", text);
  said("small.yaml run.dir=r data.source=text data.path=text.txt data.validation=0.1");
  ASSERT_EQ(rows("r").size(), 6u);
  EXPECT_TRUE(rows("r").back().eval_loss.has_value());
  // The run knows its data: eval needs nothing more. From another folder too.
  const Ended elsewhere = run_program("/", "eval " + file("r"));
  EXPECT_EQ(elsewhere.code, 0) << elsewhere.err;
  EXPECT_TRUE(has(elsewhere.out, "loss ")) << elsewhere.out;
}

class Eval : public Commands {
 protected:
  void SetUp() override {
    Commands::SetUp();
    said("small.yaml run.dir=r");
    std::string text;
    for (int i = 0; i < 33 * 32 / 8 + 2; ++i)
      text += "sample " + std::string(1, static_cast<char>('a' + i % 26));
    folder_.write("text.txt", text);
  }
  std::string on_text(const std::string& more) const {
    return "eval r data.source=text data.path=text.txt eval.batches=0 " + more;
  }
};

TEST_F(Eval, ReadsEachSampleOnceAndCreatesNothing) {
  const int64_t before = entries();
  const int64_t tokens = static_cast<int64_t>(std::filesystem::file_size(file("text.txt")));
  const std::string whole = std::to_string((tokens - 1) / 32 * 32);
  EXPECT_TRUE(has(said(on_text("")), "tokens " + whole)) << said(on_text("")) << whole;
  // Batches that the number of samples is no multiple of change nothing.
  EXPECT_EQ(said(on_text("train.micro_batch=7")), said(on_text("")));
  EXPECT_EQ(mpi(3, on_text("")).out, said(on_text("")));
  EXPECT_EQ(entries(), before);
}

TEST_F(Eval, DumpHoldsWhatTheLossIsTheMeanOf) {
  const std::string text = said(on_text("--dump d.h5"));
  const Hdf5File dump = Hdf5File::open(file("d.h5"));
  const Shape shape = dump.shape_of("loss");
  EXPECT_EQ(shape[1], 32);
  std::vector<float> loss(static_cast<size_t>(shape.elements()));
  dump.read("loss", view_of(loss.data(), shape));
  double sum = 0;
  for (float x : loss) sum += static_cast<double>(x);
  const double mean = std::stod(text.substr(5));
  EXPECT_NEAR(sum / static_cast<double>(loss.size()), mean, 1e-6);
  EXPECT_FALSE(dump.has("logits"));
  EXPECT_EQ(dump.shape_of("state/0/wkv"), (Shape{shape[0], 2, 16, 16}));
  EXPECT_EQ(dump.shape_of("state/1/att_shift"), (Shape{shape[0], 32}));
  EXPECT_EQ(dump.shape_of("state/1/ffn_shift"), (Shape{shape[0], 32}));
}

TEST_F(Eval, AFailedDumpLeavesTheOldFile) {
  said("small.yaml run.dir=v data.source=text data.path=text.txt model.vocab=200");
  said("eval v --dump d.h5");
  const std::string before = read_file(file("d.h5"));
  // The last samples cannot be read; the others have been written by then.
  folder_.write("text.txt", read_file(file("text.txt")) + std::string(64, '\xff'));
  const Ended ended = program("eval v eval.batches=0 train.micro_batch=1 --dump d.h5");
  EXPECT_EQ(ended.code, 88);
  EXPECT_TRUE(has(ended.err, "text.txt: token 256")) << ended.err;
  EXPECT_TRUE(read_file(file("d.h5")) == before);
  EXPECT_FALSE(there("d.h5.tmp"));
}

TEST_F(Eval, AKilledDumpLeavesTheOldFile) {
  folder_.write("d.h5", "old");
  for (const char* signal : {"KILL", "TERM"}) {
    const Ended ended = run_shell("cd " + folder_.path() + "\n" + RWKV_PROGRAM +
                                      " eval r eval.batches=1000000 --dump d.h5 &\njob=$!\n" +
                                      "until [ -s d.h5.tmp ]; do sleep 0.02; done\nkill -" +
                                      signal + " $job\nwait $job",
                                  60);
    EXPECT_GT(ended.code, 128) << "a signal ends an evaluation at once";
    EXPECT_EQ(read_file(file("d.h5")), "old");
    std::filesystem::remove(file("d.h5.tmp"));
  }
}

TEST_F(Eval, MistakesAreNamed) {
  expect_refused(program("eval r --logits"), {"--logits needs --dump"});
  expect_refused(program("eval nowhere"), {"nowhere"});
  expect_refused(program("eval small.yaml"), {"small.yaml"});
  expect_refused(program("eval r model.width=64"), {"model.width is 64", "32"});
  expect_refused(program("eval r data.source=text data.path=no.txt"), {"no.txt"});
  std::filesystem::create_directory(file("empty"));
  expect_refused(program("eval empty"), {"empty: holds no checkpoint"});
  expect_refused(mpi(3, "eval nowhere"), {"nowhere"});
}

TEST_F(Eval, AFinalLossIsThatOfTheRun) {
  const double of_run = *rows("r").back().eval_loss;
  const std::string text = said("eval r");
  EXPECT_NEAR(std::stod(text.substr(5)), of_run, 1e-5) << text;
}

class Generate : public Commands {
 protected:
  void SetUp() override {
    Commands::SetUp();
    said("small.yaml run.dir=r");
  }
};

TEST_F(Generate, TheSameSeedGivesTheSameText) {
  const std::string one = said("generate r --prompt 12 --tokens 40 --seed 3");
  EXPECT_EQ(one.find("12"), 0u);
  EXPECT_EQ(said("generate r --prompt 12 --tokens 40 --seed 3"), one);
  EXPECT_NE(said("generate r --prompt 12 --tokens 40 --seed 4"), one);
}

TEST_F(Generate, TemperatureZeroNeedsNoSeed) {
  const std::string one = said("generate r --prompt 12 --tokens 40 --temperature 0 --seed 3");
  EXPECT_EQ(said("generate r --prompt 12 --tokens 40 --temperature 0 --seed 4"), one);
  // The smallest set of tokens is the likeliest one.
  EXPECT_EQ(said("generate r --prompt 12 --tokens 40 --top-p 0 --seed 9"), one);
}

TEST_F(Generate, NoTokensGiveThePromptBack) {
  EXPECT_EQ(said("generate r --prompt 'a b' --tokens 0"), "a b\n");
}

TEST_F(Generate, ThePromptMayStandInAFile) {
  folder_.write("prompt.txt", "12 \n34");
  const std::string made = said("generate r --prompt-file prompt.txt --tokens 0");
  EXPECT_EQ(made, "12 \n34\n");
  EXPECT_EQ(said("generate r --prompt-file prompt.txt --tokens 9 --seed 2"),
            said("generate r --prompt $'12 \\n34' --tokens 9 --seed 2"));
  expect_refused(program("generate r --prompt-file none.txt"), {"none.txt"});
}

TEST_F(Generate, WithoutTheFirstTokenThePromptMayStillBeEmpty) {
  EXPECT_EQ(program("generate r --no-bos --tokens 3").code, 0);
  EXPECT_NE(said("generate r --prompt 1 --tokens 40 --no-bos"),
            said("generate r --prompt 1 --tokens 40"));
}

TEST_F(Generate, TokensOutsideTheVocabularyAreRefused) {
  folder_.write("text.txt", std::string(400, 'a'));
  said("small.yaml run.dir=t data.source=text data.path=text.txt model.vocab=110");
  said("generate t --prompt abc --tokens 3");
  expect_refused(program("generate t --prompt abz --tokens 3"), {"token 123", "vocabulary"});
}

}  // namespace
}  // namespace rwkv
