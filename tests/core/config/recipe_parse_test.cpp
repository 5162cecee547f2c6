#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "core/base/error.h"
#include "core/config/fields.h"
#include "core/config/load.h"
#include "core/config/value.h"

namespace rwkv {
namespace {

constexpr const char* kMinimal = R"(
model: {layers: 2, width: 64}
train: {context: 64, batch: 4, steps: 10}
)";

Recipe parse(const std::string& text, const std::vector<std::string>& overrides = {},
             const std::string& path = "recipes/tiny.yaml") {
  return parse_recipe(text, path, overrides);
}

Recipe minimal(const std::vector<std::string>& overrides = {}) {
  return parse(kMinimal, overrides);
}

std::string error_of(const std::vector<std::string>& overrides,
                     const std::string& text = kMinimal) {
  try {
    parse(text, overrides);
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

std::string working_folder() { return std::filesystem::current_path().string(); }

TEST(RecipeParse, DefaultsOfTheTableAreThoseOfTheStructs) {
  Recipe parsed = minimal();
  Recipe plain;
  for (const Field& field : recipe_fields()) {
    const bool given = field.name == "model.layers" || field.name == "model.width" ||
                       field.name == "train.context" || field.name == "train.batch" ||
                       field.name == "train.steps" || field.name == "run.dir";
    if (given) continue;
    EXPECT_EQ(get_value(field, parsed), get_value(field, plain)) << field.name;
  }
}

TEST(RecipeParse, NameAndRunFolderComeFromTheFileName) {
  EXPECT_EQ(minimal().name, "tiny");
  EXPECT_EQ(minimal().run.dir, working_folder() + "/runs/tiny");
}

TEST(RecipeParse, ValuesReachTheirPlaces) {
  const Recipe recipe = parse(R"(
model: {layers: 3, width: 96, head_size: 32, ffn_width: 100, vocab: 300, blocks: [rwkv7, rwkv7],
        lora_rank: {decay: 1, iclr: 2, value: 3, gate: 4}}
train: {context: 64, batch: 4, steps: 10, micro_batch: 2, stop_at: 5, recompute: block}
run: {seed: 18446744073709551615, resume: never}
loss: {l2wrap: 0}
optimizer: {lr: 1, lr_final: .5, betas: [0.8, 0.95], eps: 1.0e-8, warmup: 3, schedule: linear}
parallel: {data: 4, sequence: 1, threads: 2, leaf: 512, tile: 128, timeout: 600, device: cpu}
precision: fp64
checkpoint: {every: 2, keep: 1, async: false}
eval: {every: 5, batches: 6}
log: {every: 7}
)");
  EXPECT_EQ(recipe.model.layers, 3);
  EXPECT_EQ(recipe.model.ffn_width, 100);
  EXPECT_EQ(recipe.model.vocab, 300);
  EXPECT_EQ(recipe.model.lora_rank, (LoraRanks{1, 2, 3, 4}));
  EXPECT_EQ(recipe.model.blocks, (std::vector<std::string>{"rwkv7", "rwkv7"}));
  EXPECT_EQ(recipe.train.micro_batch, 2);
  EXPECT_EQ(recipe.train.stop_at, 5);
  EXPECT_EQ(recipe.train.recompute, "block");
  EXPECT_EQ(recipe.run.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(recipe.run.resume, "never");
  EXPECT_EQ(recipe.loss.l2wrap, 0);
  EXPECT_EQ(recipe.optimizer.lr, 1);
  EXPECT_EQ(recipe.optimizer.lr_final, 0.5);
  EXPECT_EQ(recipe.optimizer.beta1, 0.8);
  EXPECT_EQ(recipe.optimizer.beta2, 0.95);
  EXPECT_EQ(recipe.optimizer.eps, 1e-8);
  EXPECT_EQ(recipe.parallel.data, 4);
  EXPECT_EQ(recipe.parallel.device, "cpu");
  EXPECT_EQ(recipe.precision, "fp64");
  EXPECT_FALSE(recipe.checkpoint.async);
  EXPECT_EQ(recipe.eval.batches, 6);
  EXPECT_EQ(recipe.log.every, 7);
}

TEST(RecipeParse, AutoAndNoneAreTheZeroOfTheStructs) {
  const Recipe recipe =
      minimal({"model.vocab=auto", "model.ffn_width=auto", "model.lora_rank.gate=auto",
               "train.micro_batch=auto", "train.stop_at=none", "parallel.data=auto",
               "parallel.sequence=auto", "parallel.threads=auto", "run.init_from=none"});
  EXPECT_EQ(recipe.model.vocab, 0);
  EXPECT_EQ(recipe.model.ffn_width, 0);
  EXPECT_EQ(recipe.model.lora_rank.gate, 0);
  EXPECT_EQ(recipe.train.micro_batch, 0);
  EXPECT_EQ(recipe.train.stop_at, 0);
  EXPECT_EQ(recipe.parallel.data, 0);
  EXPECT_EQ(recipe.parallel.sequence, 0);
  EXPECT_EQ(recipe.parallel.threads, 0);
  EXPECT_EQ(recipe.run.init_from, "");
}

TEST(RecipeParse, TokensAreRoundedUpToWholeSteps) {
  const std::string text = "model: {layers: 2, width: 64}\ntrain: {context: 64, batch: 4, tokens: ";
  EXPECT_EQ(parse(text + "1}").train.steps, 1);
  EXPECT_EQ(parse(text + "256}").train.steps, 1);
  EXPECT_EQ(parse(text + "257}").train.steps, 2);
  EXPECT_EQ(parse(text + "257}").train.tokens, 257);
}

TEST(RecipeParse, OverridingStepsRemovesTokensAndTheReverse) {
  const Recipe by_tokens = minimal({"train.tokens=1024"});
  EXPECT_EQ(by_tokens.train.tokens, 1024);
  EXPECT_EQ(by_tokens.train.steps, 4);
  const Recipe by_steps = minimal({"train.tokens=1024", "train.steps=7"});
  EXPECT_EQ(by_steps.train.tokens, 0);
  EXPECT_EQ(by_steps.train.steps, 7);
}

TEST(RecipeParse, TheLastOverrideOfAKeyCounts) {
  EXPECT_EQ(minimal({"train.steps=7", "train.steps=8"}).train.steps, 8);
}

TEST(RecipeParse, OverridesAreYaml) {
  EXPECT_EQ(minimal({"optimizer.betas=[0.5, 0.75]"}).optimizer.beta2, 0.75);
  EXPECT_EQ(minimal({"model.blocks=[rwkv7, rwkv7]"}).model.blocks.size(), 2u);
  EXPECT_EQ(minimal({"run.resume='never'  # a comment"}).run.resume, "never");
}

TEST(RecipeParse, InitFromStandsInForTheShape) {
  const Recipe recipe =
      parse("run: {init_from: w.pth}\ntrain: {context: 64, batch: 4, steps: 10}\n");
  EXPECT_EQ(recipe.model.layers, 0);
  EXPECT_EQ(recipe.run.init_from, working_folder() + "/recipes/w.pth");
}

TEST(RecipeParse, PathsOfAFileStartFromItsFolder) {
  const std::string text =
      std::string(kMinimal) + "data: {source: text, path: ../corpus.txt, validation: sub/v.txt}\n";
  EXPECT_EQ(parse(text, {}, "/a/b/r.yaml").data.path, "/a/corpus.txt");
  EXPECT_EQ(parse(text, {}, "/a/b/r.yaml").data.validation, "/a/b/sub/v.txt");
  EXPECT_EQ(parse(text, {}, "r.yaml").data.validation, working_folder() + "/sub/v.txt");
}

TEST(RecipeParse, PathsOfOverridesAndRunPathsStartFromTheWorkingFolder) {
  const std::string text = std::string(kMinimal) + "run: {dir: out/, resume: old/step-5}\n";
  const Recipe recipe =
      parse(text, {"data.source=text", "data.path=c.txt", "run.init_from=/w.pth"}, "/a/r.yaml");
  EXPECT_EQ(recipe.run.dir, working_folder() + "/out");
  EXPECT_EQ(recipe.run.resume, working_folder() + "/old/step-5");
  EXPECT_EQ(recipe.data.path, working_folder() + "/c.txt");
  EXPECT_EQ(recipe.run.init_from, "/w.pth");
}

TEST(RecipeParse, AFractionIsNotAPath) {
  const std::vector<std::string> text{"data.source=text", "data.path=c.txt"};
  const auto with = [&](const std::string& validation) {
    std::vector<std::string> overrides = text;
    overrides.push_back("data.validation=" + validation);
    return minimal(overrides).data.validation;
  };
  EXPECT_EQ(with("1e-1"), "0.1");
  EXPECT_EQ(with("'0.1'"), working_folder() + "/0.1");
  EXPECT_EQ(with("none"), "none");
}

TEST(RecipeParse, SamplersOfFiles) {
  const Recipe recipe = minimal({"data.source=binidx", "data.path=d", "data.sampler=rwkv_lm"});
  EXPECT_EQ(recipe.data.sampler, "rwkv_lm");
  EXPECT_EQ(minimal({"data.sampler=sequential"}).data.sampler, "sequential");
}

TEST(RecipeParse, AConstantScheduleIgnoresTheFinalRate) {
  const Recipe recipe = minimal({"optimizer.lr=1e-6", "optimizer.schedule=constant"});
  EXPECT_EQ(recipe.optimizer.lr, 1e-6);
}

TEST(RecipeParse, ASourceNeedsNothing) {
  const Recipe recipe = parse_recipe("", "", {}, RecipeUse::kSource);
  EXPECT_EQ(recipe.model.layers, 0);
  EXPECT_EQ(recipe.train.context, 0);
  EXPECT_EQ(recipe.train.steps, 0);
  const std::vector<std::string> overrides{"train.tokens=1000", "train.batch=2"};
  EXPECT_EQ(parse_recipe("", "", overrides, RecipeUse::kSource).train.steps, 0);
}

TEST(RecipeParse, ASourceIsCheckedLikeARecipe) {
  const std::vector<std::string> overrides{"data.sourc=text"};
  EXPECT_THROW(parse_recipe("", "", overrides, RecipeUse::kSource), InputError);
}

TEST(RecipeParse, AFileWithAByteOrderMarkOrWindowsLineEndsIsRead) {
  EXPECT_EQ(parse("\xef\xbb\xbfmodel: {layers: 2, width: 64}\r\n"
                  "train: {context: 64, batch: 4, steps: 10}\r\n")
                .train.steps,
            10);
}

TEST(RecipeParse, MistakesInOverridesAreToldWithTheirText) {
  EXPECT_EQ(error_of({"train.steps=x"}),
            "train.steps=x: train.steps: expected none or an integer >= 1, got 'x'");
  EXPECT_EQ(error_of({"train.batch="}),
            "train.batch=: train.batch: expected an integer from 1 to 1048576, got nothing");
  EXPECT_EQ(error_of({"train.batch=null"}),
            "train.batch=null: train.batch: expected an integer from 1 to 1048576, got nothing");
  EXPECT_EQ(error_of({"train.steps"}),
            "train.steps: expected key=value, for example train.steps=100");
  EXPECT_EQ(error_of({"loss.l2warp=0"}),
            "loss.l2warp=0: loss.l2warp: unknown key, did you mean 'loss.l2wrap'? (loss: l2wrap)");
  EXPECT_EQ(error_of({"model={layers: 2}"}),
            "model={layers: 2}: model: is a section: override its keys one by one, "
            "model.layers=...");
  EXPECT_EQ(error_of({"precision=[bf16"}),
            "precision=[bf16: a key must be a plain name (or a bracket is not closed)");
  EXPECT_EQ(error_of({"parallel.pipeline=2"}),
            "parallel.pipeline=2: parallel.pipeline: not yet: only 1 is built so far");
}

TEST(RecipeParse, AConflictIsToldAtTheKeyThatIsGiven) {
  EXPECT_EQ(error_of({"model.head_size=48"}),
            "recipes/tiny.yaml:2:20: model.width: width 64 is not a multiple of model.head_size 48 "
            "(model.width 48 or 96 is)");
  EXPECT_EQ(error_of({"optimizer.lr=1e-5"}),
            "optimizer.lr=1e-5: optimizer.lr: optimizer.lr_final 6e-05 is above optimizer.lr "
            "1e-05");
}

TEST(RecipeParse, AnOverrideMendsWhatTheFileAsksTooEarly) {
  const std::string text = std::string(kMinimal) + "parallel: {pipeline: 2}\n";
  EXPECT_NE(error_of({}, text), "no error");
  EXPECT_EQ(parse(text, {"parallel.pipeline=1"}).parallel.pipeline, 1);
}

TEST(RecipeParse, AMissingFileIsAnInputError) {
  EXPECT_THROW(load_recipe("/nonexistent/recipe.yaml", {}), InputError);
  EXPECT_THROW(load_recipe("/", {}), InputError);
}

}  // namespace
}  // namespace rwkv
