// Weights of others: what shape the model has, and what is refused.
#include "core/io/weight_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "core/io/checkpoint.h"
#include "core/plan/param_table.h"
#include "tests/support/model_run.h"
#include "tests/support/process.h"

namespace rwkv {
namespace {

using namespace test;

ModelConfig odd_config(int64_t layers = 2) {
  ModelConfig model;
  model.layers = layers;
  model.width = 48;
  model.head_size = 16;
  model.ffn_width = 80;
  model.lora_rank = {3, 4, 5, 6};
  return resolve_model(model, 41);
}

NamedTensor tensor(const std::string& name, const std::vector<int64_t>& shape) {
  NamedTensor out{name, shape, DType::kF32, {}};
  int64_t elements = 1;
  for (int64_t d : shape) elements *= d;
  for (double x : normals(name, elements)) out.values.push_back(static_cast<float>(x));
  return out;
}

std::vector<NamedTensor> tensors(const ModelConfig& model) {
  std::vector<NamedTensor> out;
  for (const ParamSpec& spec : param_table(model)) {
    std::vector<int64_t> shape;
    for (int i = 0; i < spec.shape.rank; ++i) shape.push_back(spec.shape[i]);
    out.push_back(tensor(spec.name, shape));
  }
  return out;
}

// Nothing is given.
ModelConfig open() {
  ModelConfig model;
  model.head_size = 0;
  return model;
}

class WeightFileTest : public testing::Test {
 protected:
  std::string write(const std::vector<NamedTensor>& content,
                    const std::string& name = "w.pth") const {
    write_pth(folder_.file(name), content, DType::kF32);
    return folder_.file(name);
  }
  NamedTensor& named(std::vector<NamedTensor>& all, const std::string& name) const {
    return *std::find_if(all.begin(), all.end(), [&](const auto& t) { return t.name == name; });
  }
  std::string refusal(const std::function<void()>& work) const {
    try {
      work();
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  }
  TempFolder folder_;
};

void expect_same(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.width, b.width);
  EXPECT_EQ(a.head_size, b.head_size);
  EXPECT_EQ(a.ffn_width, b.ffn_width);
  EXPECT_EQ(a.vocab, b.vocab);
  EXPECT_EQ(a.lora_rank, b.lora_rank);
}

TEST_F(WeightFileTest, ShapesGiveTheModel) {
  const WeightFile file(write(tensors(odd_config())));
  EXPECT_EQ(file.checkpoint(), "");
  expect_same(file.model(open()), odd_config());
  expect_same(file.model(odd_config()), odd_config());
}

TEST_F(WeightFileTest, AFieldThatContradictsIsRefusedByName) {
  const WeightFile file(write(tensors(odd_config())));
  const std::vector<std::pair<std::string, std::function<void(ModelConfig&)>>> fields = {
      {"model.layers is 3", [](ModelConfig& m) { m.layers = 3; }},
      {"model.width is 64", [](ModelConfig& m) { m.width = 64; }},
      {"model.head_size is 8", [](ModelConfig& m) { m.head_size = 8; }},
      {"model.vocab is 40", [](ModelConfig& m) { m.vocab = 40; }},
      {"model.ffn_width is 192", [](ModelConfig& m) { m.ffn_width = 192; }},
      {"model.lora_rank.decay is 9", [](ModelConfig& m) { m.lora_rank.decay = 9; }},
      {"model.lora_rank.iclr is 9", [](ModelConfig& m) { m.lora_rank.iclr = 9; }},
      {"model.lora_rank.value is 9", [](ModelConfig& m) { m.lora_rank.value = 9; }},
      {"model.lora_rank.gate is 9", [](ModelConfig& m) { m.lora_rank.gate = 9; }}};
  for (const auto& [words, change] : fields) {
    ModelConfig given = open();
    change(given);
    const std::string what = refusal([&] { file.model(given); });
    EXPECT_EQ(what.find(words), 0u) << what;
    EXPECT_NE(what.find("w.pth"), std::string::npos) << what;
  }
}

TEST_F(WeightFileTest, LoadsEveryValue) {
  const auto content = tensors(odd_config());
  const WeightFile file(write(content));
  for (Precision precision : {kSingle, kDouble}) {
    ParamStore store(param_table(odd_config()), precision, false);
    file.load(store);
    for (size_t i = 0; i < store.size(); ++i) {
      const std::vector<double> got = doubles(store.master(i));
      ASSERT_EQ(got.size(), content[i].values.size());
      for (size_t e = 0; e < got.size(); ++e) {
        ASSERT_EQ(got[e], static_cast<double>(content[i].values[e])) << content[i].name;
      }
    }
  }
}

TEST_F(WeightFileTest, DimensionsOfOneDoNotMatter) {
  auto content = tensors(odd_config());
  named(content, "blocks.0.att.x_r").shape = {48};
  named(content, "ln_out.weight").shape = {1, 1, 48};
  const WeightFile file(write(content));
  ParamStore store(param_table(odd_config()), kSingle, false);
  EXPECT_EQ(refusal([&] { file.load(store); }), "");
}

TEST_F(WeightFileTest, TheUnusedValueResidualOfTheFirstLayerIsLeftOut) {
  auto content = tensors(odd_config());
  content.push_back(tensor("blocks.0.att.v0", {1, 1, 48}));
  content.push_back(tensor("blocks.0.att.v1", {48, 5}));
  content.push_back(tensor("blocks.0.att.v2", {5, 48}));
  const WeightFile file(write(content));
  expect_same(file.model(open()), odd_config());
  ParamStore store(param_table(odd_config()), kSingle, false);
  EXPECT_EQ(refusal([&] { file.load(store); }), "");
}

TEST_F(WeightFileTest, UnknownMissingAndWrongTensorsAreNamed) {
  ParamStore store(param_table(odd_config()), kSingle, false);
  auto more = tensors(odd_config());
  more.push_back(tensor("blocks.0.att.extra", {2}));
  EXPECT_NE(refusal([&] { WeightFile(write(more)).load(store); }).find("blocks.0.att.extra"),
            std::string::npos);
  auto fewer = tensors(odd_config());
  fewer.erase(fewer.end() - 2);
  EXPECT_NE(refusal([&] {
              WeightFile(write(fewer)).load(store);
            }).find(fewer.back().name == "head.weight" ? "ln_out.bias" : "?"),
            std::string::npos);
  auto wrong = tensors(odd_config());
  named(wrong, "blocks.1.att.w2") = tensor("blocks.1.att.w2", {48, 3});  // transposed
  const std::string what = refusal([&] { WeightFile(write(wrong)).load(store); });
  for (const char* part : {"blocks.1.att.w2", "(48, 3)", "(3, 48)"}) {
    EXPECT_NE(what.find(part), std::string::npos) << what;
  }
}

TEST_F(WeightFileTest, OtherModelsAreRefused) {
  const WeightFile file(write({tensor("weight", {3, 4})}));
  EXPECT_NE(refusal([&] { file.model(open()); }).find("not the weights of an RWKV-7 model"),
            std::string::npos);
  auto flat = tensors(odd_config());
  named(flat, "blocks.0.att.w1") = tensor("blocks.0.att.w1", {48});
  const WeightFile odd(write(flat));
  EXPECT_NE(refusal([&] { odd.model(open()); }).find("blocks.0.att.w1 is not a matrix"),
            std::string::npos);
}

TEST_F(WeightFileTest, ASingleLayerNeedsNoValueRank) {
  const WeightFile file(write(tensors(odd_config(1))));
  ModelConfig model = file.model(open());
  EXPECT_EQ(model.layers, 1);
  EXPECT_GT(model.lora_rank.value, 0);
  ParamStore store(param_table(model), kSingle, false);
  EXPECT_EQ(refusal([&] { file.load(store); }), "");
}

TEST_F(WeightFileTest, RunFoldersAndCheckpointsAreSources) {
  ParamStore store(param_table(odd_config()), kSingle, true);
  const auto self = make_self();
  for (int64_t step : {2, 10}) {
    assign(store.master(0), normals("emb " + std::to_string(step), store.master(0).elements()));
    CheckpointInfo info;
    info.step = step;
    save_checkpoint(folder_.file("run/checkpoints"), info, store, 0, *self);
  }
  const WeightFile run(folder_.file("run"));
  EXPECT_EQ(run.checkpoint(), folder_.file("run/checkpoints/step-10"));
  expect_same(run.model(open()), odd_config());
  ParamStore back(param_table(odd_config()), kSingle, false);
  run.load(back);
  EXPECT_EQ(back.hash(), store.hash());
  const WeightFile step(folder_.file("run/checkpoints/step-2"));
  step.load(back);
  EXPECT_NE(back.hash(), store.hash());
}

TEST_F(WeightFileTest, WhatIsNoSourceIsSaid) {
  const auto said = [&](const std::string& path) {
    return refusal([&] { const WeightFile file(path); });
  };
  EXPECT_NE(said(folder_.file("m.safetensors")).find("not yet"), std::string::npos);
  EXPECT_NE(said(folder_.path()).find("holds no checkpoint"), std::string::npos);
  EXPECT_NE(said(folder_.write("m.bin", "x")).find("m.bin: not a run folder"), std::string::npos);
  EXPECT_NE(said(folder_.file("none.pth")).find("none.pth"), std::string::npos);
  EXPECT_NE(said(folder_.write("bad.pth", "not a zip")).find("bad.pth"), std::string::npos);
}

}  // namespace
}  // namespace rwkv
