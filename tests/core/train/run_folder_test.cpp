// Where a run goes on, and what it may not change.
#include "core/train/run_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/io/checkpoint.h"
#include "core/plan/param_table.h"
#include "tests/core/train/train_test_support.h"
#include "tests/support/model_run.h"
#include "tests/support/process.h"

namespace rwkv {
namespace {

using namespace test;

TEST(ChangedKey, IsNamedForEveryKeyThatMustStay) {
  const Recipe before = small_recipe();
  EXPECT_EQ(changed_key(before, before), "");
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"run.seed", "2"},           {"model.layers", "3"},
      {"model.width", "48"},       {"model.head_size", "8"},
      {"model.ffn_width", "64"},   {"model.vocab", "300"},
      {"data.source", "skills"},   {"data.sampler", "sequential"},
      {"train.context", "25"},     {"train.batch", "6"},
      {"loss.l2wrap", "0"},        {"optimizer.lr", "1e-3"},
      {"optimizer.lr_final", "0"}, {"optimizer.schedule", "linear"},
      {"optimizer.warmup", "3"},   {"optimizer.betas", "[0.9, 0.98]"},
      {"optimizer.eps", "1e-8"},   {"optimizer.weight_decay", "0"},
      {"optimizer.clip", "2"},     {"precision", "fp32"}};
  for (const auto& [key, value] : changes) {
    EXPECT_EQ(changed_key(before, small_recipe({key + "=" + value})), key);
  }
  EXPECT_EQ(changed_key(before, small_recipe({"model.lora_rank.gate=64"})), "model.lora_rank");
}

TEST(ChangedKey, AllowsWhatDoesNotChangeTheMathematics) {
  const Recipe before = small_recipe();
  for (const char* given :
       {"train.steps=99", "train.micro_batch=1", "train.recompute=block", "parallel.threads=2",
        "checkpoint.every=3", "eval.every=2", "log.every=1", "model.ffn_width=128",
        "train.stop_at=4", "run.resume=never"}) {
    EXPECT_EQ(changed_key(before, small_recipe({given})), "") << given;
  }
}

// Whether a recipe is refused as the user's mistake, and what is said.
std::string refusal(const Recipe& recipe) {
  try {
    find_resume_point(recipe);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kBadInput);
    return error.what();
  }
  return "";
}

class ResumePoints : public testing::Test {
 protected:
  Recipe recipe(std::vector<std::string> overrides = {}) const {
    overrides.push_back("run.dir=" + folder_.file("run"));
    return small_recipe(overrides);
  }
  void save(const std::string& run, int64_t step, const Recipe& from) const {
    const auto self = make_self();
    const ParamStore store(param_table(resolve_model(from.model, 257)), kSingle, false);
    CheckpointInfo info;
    info.step = step;
    info.tokens = step * 120;
    info.recipe = to_yaml(from);
    save_checkpoint(folder_.file(run) + "/checkpoints", info, store, 0, *self);
  }
  TempFolder folder_;
};

TEST_F(ResumePoints, AnEmptyFolderIsAFreshStart) {
  const ResumePoint point = find_resume_point(recipe());
  EXPECT_EQ(point.checkpoint, "");
  EXPECT_EQ(point.step, 0);
  EXPECT_FALSE(point.own);
  EXPECT_FALSE(point.finished);
  EXPECT_FALSE(std::filesystem::exists(folder_.file("run")));
}

TEST_F(ResumePoints, AutoTakesTheNewestByNumber) {
  for (int64_t step : {2, 9, 10}) save("run", step, recipe({"train.steps=20"}));
  const ResumePoint point = find_resume_point(recipe({"train.steps=20"}));
  EXPECT_EQ(point.checkpoint, folder_.file("run/checkpoints/step-10"));
  EXPECT_EQ(point.step, 10);
  EXPECT_EQ(point.tokens, 1200);
  EXPECT_TRUE(point.own);
  EXPECT_FALSE(point.finished);
  EXPECT_TRUE(find_resume_point(recipe({"train.steps=10"})).finished);
}

TEST_F(ResumePoints, HalfWrittenAndForeignFoldersAreNotCheckpoints) {
  save("run", 2, recipe());
  const std::string checkpoints = folder_.file("run/checkpoints/");
  for (const char* name : {"step-5.tmp", "step-x", "step-", "step-7a", "other"}) {
    std::filesystem::create_directories(checkpoints + name);
  }
  for (const char* name : {"step-5.tmp", "step-7a", "other"}) {
    std::filesystem::copy_file(checkpoints + "step-2/index.h5", checkpoints + name + "/index.h5");
  }
  EXPECT_EQ(find_resume_point(recipe()).step, 2);
}

TEST_F(ResumePoints, NeverLooksAtNothing) {
  save("run", 2, recipe({"run.seed=7"}));
  const ResumePoint point = find_resume_point(recipe({"run.resume=never"}));
  EXPECT_EQ(point.checkpoint, "");
  EXPECT_FALSE(point.own);
}

TEST_F(ResumePoints, APathMayBeARunFolderOrAStep) {
  for (int64_t step : {2, 4}) save("other", step, recipe());
  const ResumePoint newest = find_resume_point(recipe({"run.resume=" + folder_.file("other")}));
  EXPECT_EQ(newest.step, 4);
  EXPECT_FALSE(newest.own);
  const std::string step = folder_.file("other/checkpoints/step-2");
  EXPECT_EQ(find_resume_point(recipe({"run.resume=" + step})).step, 2);
  EXPECT_NE(refusal(recipe({"run.resume=" + folder_.file("none")})).find("run.resume"),
            std::string::npos);
}

TEST_F(ResumePoints, APathDoesNotTouchTheFolderOfAnotherRun) {
  save("other", 2, recipe());
  save("run", 3, recipe());
  const std::string path = "run.resume=" + folder_.file("other");
  EXPECT_NE(refusal(recipe({path})).find("run.resume"), std::string::npos);
  save("run", 5, recipe({path}));  // the run that began from there
  const ResumePoint point = find_resume_point(recipe({path}));
  EXPECT_EQ(point.step, 5);
  EXPECT_TRUE(point.own);
}

TEST_F(ResumePoints, AChangedRecipeIsRefused) {
  save("run", 2, recipe());
  EXPECT_EQ(refusal(recipe({"optimizer.lr=1e-3"})).find("optimizer.lr differs"), 0u);
}

TEST_F(ResumePoints, StartingAfreshSetsAnEarlierRunAside) {
  save("run", 2, recipe());
  const RunFolder folder(folder_.file("run"));
  folder_.write("run/metrics.jsonl", "{}\n");
  folder.start_afresh();
  EXPECT_EQ(latest_checkpoint(folder.path()), "");
  EXPECT_FALSE(std::filesystem::exists(folder.metrics()));
  EXPECT_NE(latest_checkpoint(folder_.file("run/before-1")), "");
  save("run", 3, recipe());
  folder.start_afresh();
  EXPECT_NE(latest_checkpoint(folder_.file("run/before-2")), "");
  // Without a checkpoint there is nothing to keep.
  folder_.write("run/metrics.jsonl", "{}\n");
  folder.start_afresh();
  EXPECT_FALSE(std::filesystem::exists(folder.metrics()));
  EXPECT_FALSE(std::filesystem::exists(folder_.file("run/before-3")));
}

TEST_F(ResumePoints, ALockedFolderIsRefused) {
  const RunFolder folder(folder_.file("run"));
  EXPECT_THROW(RunFolder(folder_.file("run")), InputError);
}

TEST_F(ResumePoints, TheConfigIsARecipeThatGivesTheSameRun) {
  const RunFolder folder(folder_.file("run"));
  const Recipe written = recipe({"optimizer.lr=3.3e-4", "train.steps=17"});
  folder.write_config(written);
  const Recipe back = load_recipe(folder_.file("run/config.yaml"), {});
  EXPECT_EQ(to_yaml(back), to_yaml(written));
}

}  // namespace
}  // namespace rwkv
