// What `check` prints is what a run binds, and the table is that of the golden models.
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "core/plan/param_table.h"
#include "tests/support/model_run.h"

namespace rwkv {
namespace {

using namespace test;

int64_t sum(const std::vector<Arena::Entry>& entries) {
  return std::accumulate(entries.begin(), entries.end(), int64_t{0},
                         [](int64_t s, const Arena::Entry& e) { return s + e.bytes; });
}

ModelConfig config() {
  ModelConfig model;
  model.layers = 4;
  model.width = 64;
  model.head_size = 32;
  return resolve_model(model, 257);
}

std::vector<ModelPlan> plans() {
  std::vector<ModelPlan> out;
  for (Precision precision : {kDouble, kSingle, kHalf}) {
    for (bool backward : {true, false}) {
      for (bool recompute : {true, false}) {
        if (!backward && recompute) continue;
        out.push_back({precision, 3, 70, 2, backward, recompute});
      }
    }
  }
  return out;
}

TEST(MemoryPlan, PlannedBytesAreThoseBound) {
  const Model model(config());
  for (const ModelPlan& plan : plans()) {
    const Workspace planned(model, plan, false), bound(model, plan);
    EXPECT_EQ(planned.bytes(), bound.bytes());
    EXPECT_GT(bound.bytes(), 0);
    // Alignment of views is no entry's: at most 63 bytes a view.
    EXPECT_LE(sum(planned.entries()), bound.bytes());
    EXPECT_NEAR(static_cast<double>(sum(planned.entries())), static_cast<double>(bound.bytes()),
                64.0 * 500);
    EXPECT_EQ(sum(planned.entries()), sum(bound.entries()));
  }
}

TEST(MemoryPlan, RecomputeHoldsLessAndInferenceLeast) {
  const Model model(config());
  const auto bytes = [&](bool backward, bool recompute, bool keep_mixes = true) {
    ModelPlan plan{kSingle, 3, 70, 1, backward, recompute};
    plan.keep_mixes = keep_mixes;
    return Workspace(model, plan).bytes();
  };
  EXPECT_LT(bytes(true, false, false), bytes(true, false));
  EXPECT_LT(bytes(true, true), bytes(true, false, false));
  EXPECT_LT(bytes(false, false), bytes(true, true));
}

TEST(MemoryPlan, GrowsWithSequencesAndTokens) {
  const Model model(config());
  const auto bytes = [&](int64_t batch, int64_t tokens) {
    return static_cast<double>(Workspace(model, {kSingle, batch, tokens, 1, true, false}).bytes());
  };
  EXPECT_NEAR(bytes(8, 64) / bytes(4, 64), 2, 0.1);
  EXPECT_NEAR(bytes(4, 128) / bytes(4, 64), 2, 0.2);
}

TEST(MemoryPlan, StoresAreAsPlanned) {
  const auto specs = param_table(config());
  for (Precision precision : {kDouble, kSingle, kHalf}) {
    for (bool training : {true, false}) {
      const ParamStore store(specs, precision, training);
      const auto planned = plan_param_store(specs, precision, training);
      EXPECT_EQ(sum(planned), sum(store.plan()));
      EXPECT_LE(sum(planned), store.bytes());
      EXPECT_GE(sum(planned), store.bytes() - 64 * static_cast<int64_t>(specs.size() + 4));
      // Masters, gradients, two moments.
      const int64_t all = count_elements(specs) * bytes_of(precision.accumulate);
      EXPECT_GE(sum(planned), (training ? 4 : 1) * all);
    }
  }
}

TEST(ParamTable, HasTheNamesAndShapesOfTheGoldenModels) {
  for (const char* file : {"model_a.h5", "model_b_l2wrap.h5"}) {
    const Golden golden(file);
    std::set<std::string> wanted;
    const Hdf5File raw = Hdf5File::open(std::string(RWKV_SOURCE_DIR) + "/tests/golden/" + file);
    for (const std::string& name : raw.datasets()) {
      if (name.starts_with("params/")) wanted.insert(name.substr(7));
    }
    for (const ParamSpec& spec : param_table(golden.model())) {
      EXPECT_EQ(wanted.erase(spec.name), 1u) << spec.name;
      EXPECT_EQ(golden.shape("params/" + spec.name), spec.shape) << spec.name;
    }
    EXPECT_TRUE(wanted.empty()) << *wanted.begin();
  }
}

}  // namespace
}  // namespace rwkv
