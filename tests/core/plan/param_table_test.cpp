// The parameter table: names, shapes, open fields, shards, costs.
#include "core/plan/param_table.h"

#include <gtest/gtest.h>

#include <set>

#include "core/base/error.h"

namespace rwkv {
namespace {

ModelConfig config(int64_t layers, int64_t width, int64_t head_size, int64_t vocab) {
  ModelConfig out;
  out.layers = layers;
  out.width = width;
  out.head_size = head_size;
  out.vocab = vocab;
  return out;
}

TEST(ResolveModel, FillsRanksByTheOfficialFormula) {
  struct Row {
    int64_t width, decay, iclr, value, gate;
  };
  // max(32, 32 round(f sqrt(C) / 32)), f = 2.5, 2.5, 1.7, 5, half to even.
  for (const Row& row :
       {Row{64, 32, 32, 32, 32}, Row{768, 64, 64, 32, 128}, Row{1024, 64, 64, 64, 160},
        Row{2048, 128, 128, 64, 224}, Row{2560, 128, 128, 96, 256}, Row{4096, 160, 160, 96, 320}}) {
    const ModelConfig model = resolve_model(config(2, row.width, 64, 0), 65536);
    EXPECT_EQ(model.lora_rank.decay, row.decay) << row.width;
    EXPECT_EQ(model.lora_rank.iclr, row.iclr) << row.width;
    EXPECT_EQ(model.lora_rank.value, row.value) << row.width;
    EXPECT_EQ(model.lora_rank.gate, row.gate) << row.width;
    EXPECT_EQ(model.ffn_width, 4 * row.width);
    EXPECT_EQ(model.vocab, 65536);
  }
}

TEST(ResolveModel, LeavesWhatIsGiven) {
  ModelConfig given = config(2, 64, 64, 300);
  given.ffn_width = 96;
  given.lora_rank = {1, 2, 3, 4};
  const ModelConfig model = resolve_model(given, 257);
  EXPECT_EQ(model.vocab, 300);
  EXPECT_EQ(model.ffn_width, 96);
  EXPECT_EQ(model.lora_rank, (LoraRanks{1, 2, 3, 4}));
}

TEST(ParamTable, OnlyMatricesDecayAndOnlyW0LearnsTwiceAsFast) {
  for (const ParamSpec& spec : param_table(resolve_model(config(3, 64, 32, 257), 0))) {
    const bool w0 = spec.name.ends_with("att.w0");
    EXPECT_EQ(spec.lr_scale, w0 ? 2 : 1) << spec.name;
    const bool linear = spec.name.ends_with(".weight") && spec.shape.rank == 2;
    EXPECT_EQ(spec.decay, linear) << spec.name;
  }
}

TEST(ParamTable, TheFirstLayerAloneHasLn0AndLacksTheValueResidual) {
  std::set<std::string> names;
  for (const ParamSpec& spec : param_table(resolve_model(config(2, 64, 32, 257), 0))) {
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
  }
  EXPECT_TRUE(names.contains("blocks.0.ln0.weight"));
  EXPECT_FALSE(names.contains("blocks.1.ln0.weight"));
  for (const char* name : {"v0", "v1", "v2"}) {
    EXPECT_FALSE(names.contains(std::string("blocks.0.att.") + name));
    EXPECT_TRUE(names.contains(std::string("blocks.1.att.") + name));
  }
}

TEST(Shard, PartsTileEveryParameterOnceInOrder) {
  const auto specs = param_table(resolve_model(config(2, 32, 16, 41), 0));
  const int64_t total = count_elements(specs);
  for (int parts : {1, 2, 3, 7, 64, 1000}) {
    size_t param = 0;
    int64_t at = 0, smallest = total, largest = 0;
    for (int index = 0; index < parts; ++index) {
      int64_t size = 0;
      for (const Extent& extent : shard(specs, parts, index)) {
        if (at == specs[param].shape.elements()) {
          ++param;
          at = 0;
        }
        ASSERT_EQ(extent.param, static_cast<int>(param));
        ASSERT_EQ(extent.begin, at);
        ASSERT_LT(extent.begin, extent.end);
        at = extent.end;
        size += extent.end - extent.begin;
      }
      smallest = std::min(smallest, size);
      largest = std::max(largest, size);
    }
    EXPECT_EQ(param, specs.size() - 1);
    EXPECT_EQ(at, specs.back().shape.elements());
    EXPECT_LE(largest - smallest, 1) << parts;
  }
  EXPECT_THROW(shard(specs, 3, 3), Error);
  EXPECT_THROW(shard(specs, 0, 0), Error);
}

TEST(FlopsPerToken, AreSixAProductParameterAndTheRecurrence) {
  // L2 D64 H2x32, F 256, ranks 32 by the formula, V 257. Products a block: 4 C^2 + 2 C F and the
  // low-rank pairs (decay, iclr, gate; value in the second block), 2 C r each. Head V C.
  const double c = 64, f = 256, r = 32, v = 257;
  const double products = 2 * (4 * c * c + 2 * c * f) + (3 + 4) * 2 * c * r + v * c;
  const ModelConfig model = resolve_model(config(2, 64, 32, 257), 0);
  EXPECT_EQ(flops_per_token(model), 6 * products + 38 * 2 * 32 * 32 * 2);
}

TEST(Describe, EndsWithTheNumberOfParameters) {
  const auto table = param_table(resolve_model(config(1, 32, 16, 41), 0));
  int64_t sum = 0;
  for (const ParamSpec& spec : table) sum += spec.shape.elements();
  EXPECT_TRUE(describe(table).ends_with("\n" + std::to_string(sum) + " parameters\n"));
}

}  // namespace
}  // namespace rwkv
