// Initial weights: the official table, orthogonality, independence of everything but seed and name,
// and the first loss.
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/rng.h"
#include "core/plan/param_table.h"
#include "tests/support/model_run.h"

namespace rwkv {
namespace {

using namespace test;

ModelConfig model_of(int64_t layers, int64_t width, int64_t head, int64_t vocab) {
  ModelConfig model;
  model.layers = layers;
  model.width = width;
  model.head_size = head;
  model.vocab = vocab;
  return resolve_model(model, vocab);
}

// The golden trajectory starts from the official initialisation: everything that is not random must
// be the same, and what is random must have the same spread.
TEST(Initialize, MatchesTheOfficialTable) {
  const Golden golden("trajectory_a.h5");
  for (const ParamSpec& spec : param_table(golden.model())) {
    Owned<double> got(spec.shape);
    initialize(spec, 1, got.view());
    const std::vector<double> want = golden.read("params_init/" + spec.name);
    if (spec.init == Init::kConstant || spec.init == Init::kPerChannel) {
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(got[static_cast<int64_t>(i)], want[i], 1e-6) << spec.name << " " << i;
      }
    } else {
      double a = 0, b = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        a += got[static_cast<int64_t>(i)] * got[static_cast<int64_t>(i)];
        b += want[i] * want[i];
      }
      EXPECT_NEAR(a / b, 1, 0.05) << spec.name;
    }
  }
}

// Rows or columns, whichever are fewer, are orthogonal with the gain as length.
TEST(Initialize, OrthogonalMatricesAreOrthogonal) {
  for (const Shape& shape : {Shape{48, 16}, Shape{16, 48}, Shape{32, 32}}) {
    ParamSpec spec;
    spec.name = "w";
    spec.shape = shape;
    spec.init = Init::kOrthogonal;
    spec.value = 0.7;
    Owned<double> w(shape);
    initialize(spec, 3, w.view());
    const int64_t rows = shape[0], columns = shape[1];
    const bool tall = rows >= columns;
    const int64_t count = std::min(rows, columns), length = std::max(rows, columns);
    const auto at = [&](int64_t i, int64_t k) {
      return tall ? w[k * columns + i] : w[i * columns + k];
    };
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < count; ++j) {
        double dot = 0;
        for (int64_t k = 0; k < length; ++k) dot += at(i, k) * at(j, k);
        ASSERT_NEAR(dot, i == j ? 0.49 : 0, 1e-12);
      }
    }
  }
}

TEST(Initialize, DependsOnSeedAndNameAlone) {
  const auto value = [](uint64_t seed, const std::string& name) {
    ParamSpec spec;
    spec.name = name;
    spec.shape = {8, 8};
    spec.init = Init::kOrthogonal;
    spec.value = 1;
    Owned<double> w(spec.shape);
    initialize(spec, seed, w.view());
    return w.copy();
  };
  EXPECT_EQ(value(1, "a"), value(1, "a"));
  EXPECT_NE(value(1, "a"), value(2, "a"));
  EXPECT_NE(value(1, "a"), value(1, "b"));
}

TEST(Initialize, OfficialRanks) {
  const LoraRanks at_768 = model_of(1, 768, 64, 10).lora_rank;
  EXPECT_EQ(at_768, (LoraRanks{64, 64, 32, 128}));
  const LoraRanks at_2048 = model_of(1, 2048, 64, 10).lora_rank;
  EXPECT_EQ(at_2048, (LoraRanks{128, 128, 64, 224}));
}

// Published sizes, with the ranks of the released files (unused v0, v1, v2 of the first layer left
// out).
TEST(Initialize, CountsTheParametersOfTheReleasedModels) {
  ModelConfig model = model_of(12, 768, 64, 65536);
  model.lora_rank = {64, 64, 32, 128};
  EXPECT_EQ(count_elements(param_table(model)), 191084544 - (768 + 2 * 768 * 32));
  model = model_of(24, 2048, 64, 65536);
  model.lora_rank = {96, 96, 64, 256};
  EXPECT_EQ(count_elements(param_table(model)), 1527668736 - (2048 + 2 * 2048 * 64));
}

// ln V + 0.121 at V = 65536 over 8,192 uniform random tokens.
TEST(Initialize, FirstLossOfALargeVocabulary) {
  const int64_t vocab = 65536, batch = 8, context = 1024;
  const ModelConfig model = model_of(2, 128, 64, vocab);
  ParamStore store(param_table(model), kSingle, true);
  for (size_t i = 0; i < store.size(); ++i) initialize(store.specs()[i], 1, store.master(i));
  const Philox random(7, "tokens");
  std::vector<int32_t> tokens(static_cast<size_t>(batch * (context + 1)));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab), i));
  }
  const Model whole(model);
  Workspace ws(whole, {kSingle, 1, context, 2, false, false});
  const Pass pass{{2}, cpu_backend()};
  double sum = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int32_t* row = tokens.data() + b * (context + 1);
    std::vector<float> weight(static_cast<size_t>(context), 1.0f);
    const Batch views{view_of(row, {1, context}), view_of(row + 1, {1, context}),
                      view_of(weight.data(), {1, context})};
    whole.reset(ws);
    whole.forward(pass, store, ws, views.tokens);
    whole.loss(pass, store, ws, views, {});
    for (double x : doubles(ws.loss)) sum += x;
  }
  EXPECT_NEAR(sum / static_cast<double>(batch * context),
              std::log(static_cast<double>(vocab)) + 0.121, 0.02);
}

}  // namespace
}  // namespace rwkv
