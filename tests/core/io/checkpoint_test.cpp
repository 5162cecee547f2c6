// Checkpoints: any number of ranks writes, any reads; what is damaged is refused.
#include "core/io/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/base/posix_file.h"
#include "core/plan/param_table.h"
#include "parallel/agree.h"
#include "tests/support/model_run.h"
#include "tests/support/process.h"

namespace rwkv {
namespace {

using namespace test;
namespace fs = std::filesystem;

ModelConfig config(int64_t layers = 2) {
  ModelConfig model;
  model.layers = layers;
  model.width = 32;
  model.head_size = 16;
  return resolve_model(model, 41);
}

// Masters and moments of different random numbers.
ParamStore filled(Precision precision = kSingle) {
  ParamStore store(param_table(config()), precision, true);
  for (size_t i = 0; i < store.size(); ++i) {
    const ParamSpec& spec = store.specs()[i];
    const int64_t n = spec.shape.elements();
    assign(store.master(i), normals(spec.name + " w", n));
    assign(store.moment1(i), normals(spec.name + " m", n));
    assign(store.moment2(i), normals(spec.name + " v", n));
  }
  return store;
}

bool equal(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

CheckpointInfo info_of(int64_t step) {
  CheckpointInfo info;
  info.step = step;
  info.tokens = 100 * step;
  info.recipe = "model: {layers: 2}\n";
  info.numerics = "cpu test";
  info.tokens_a_pass = 4096;
  return info;
}

class CheckpointTest : public testing::Test {
 protected:
  void save(const ParamStore& store, int64_t step, int ranks = 1, int64_t keep = 0) const {
    run_local(ranks, [&](Communicator& comm) {
      save_checkpoint(folder_.path(), info_of(step), store, keep, comm);
    });
  }
  std::string at(int64_t step) const { return folder_.file("step-" + std::to_string(step)); }
  // What is said when step 1 is loaded; empty: nothing.
  std::string refusal(const ModelConfig& model) const {
    ParamStore store(param_table(model), kSingle, true);
    try {
      load_checkpoint(at(1), store, true);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  TempFolder folder_;
};

TEST_F(CheckpointTest, AnyRanksWriteWhatAnyReadBack) {
  for (Precision precision : {kSingle, kDouble}) {
    const ParamStore store = filled(precision);
    for (int ranks : {1, 2, 3, 8}) {
      save(store, ranks, ranks);
      for (int r = 0; r < ranks; ++r) {
        EXPECT_TRUE(fs::exists(at(ranks) + "/rank-" + std::to_string(r) + ".h5"));
      }
      ParamStore back(param_table(config()), precision, true);
      load_checkpoint(at(ranks), back, true);
      EXPECT_EQ(back.hash(), store.hash()) << ranks;
      EXPECT_EQ(read_checkpoint_info(at(ranks)).weights_hash, store.hash());
      for (size_t i = 0; i < store.size(); ++i) {
        EXPECT_TRUE(equal(back.moment1(i), store.moment1(i))) << store.specs()[i].name;
        EXPECT_TRUE(equal(back.moment2(i), store.moment2(i))) << store.specs()[i].name;
      }
    }
  }
}

TEST_F(CheckpointTest, InferenceReadsWeightsAlone) {
  const ParamStore store = filled();
  save(store, 1, 2);
  ParamStore weights(param_table(config()), kSingle, false);
  load_checkpoint(at(1), weights, false);
  EXPECT_EQ(weights.hash(), store.hash());
  // Moments stay as they were where they are not asked for.
  ParamStore training(param_table(config()), kSingle, true);
  load_checkpoint(at(1), training, false);
  EXPECT_EQ(training.hash(), store.hash());
  EXPECT_EQ(training.moment1(0).as<float>()[0], 0);
}

TEST_F(CheckpointTest, TheIndexSaysWhatItIs) {
  save(filled(), 7);
  const CheckpointInfo info = read_checkpoint_info(at(7));
  EXPECT_EQ(info.step, 7);
  EXPECT_EQ(info.tokens, 700);
  EXPECT_EQ(info.recipe, "model: {layers: 2}\n");
  EXPECT_EQ(info.numerics, "cpu test");
  EXPECT_EQ(info.tokens_a_pass, 4096);
  const auto specs = param_table(config());
  const auto shapes = checkpoint_shapes(at(7));
  ASSERT_EQ(shapes.size(), specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    EXPECT_EQ(shapes[i].first, specs[i].name);
    EXPECT_EQ(shapes[i].second, specs[i].shape);
  }
  EXPECT_EQ(read_file(folder_.file("latest")), "step-7\n");
}

TEST_F(CheckpointTest, OldOnesGoByTheirNumberAndHalfWrittenOnesToo) {
  const ParamStore store = filled();
  for (int64_t step : {8, 9, 10, 11}) save(store, step);
  fs::create_directories(folder_.file("step-12.tmp"));
  save(store, 13, 1, 2);
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    left.push_back(entry.path().filename());
  }
  std::sort(left.begin(), left.end());
  EXPECT_EQ(left, (std::vector<std::string>{"latest", "step-11", "step-13"}));
}

TEST_F(CheckpointTest, TheSameStepIsReplaced) {
  ParamStore store = filled();
  save(store, 1, 3);
  store.master(0).as<float>()[0] += 1;
  save(store, 1, 1);
  EXPECT_EQ(read_checkpoint_info(at(1)).weights_hash, store.hash());
  EXPECT_FALSE(fs::exists(at(1) + "/rank-2.h5"));
  EXPECT_EQ(refusal(config()), "");
}

TEST_F(CheckpointTest, AFailureIsAgreedAndLeavesTheEarlierOne) {
  const ParamStore store = filled();
  save(store, 1);
  // A place that is taken by something that is no folder.
  const std::string folder = folder_.write("file", "");
  std::atomic<int> agreed = 0;
  run_local(3, [&](Communicator& comm) {
    try {
      save_checkpoint(folder, info_of(2), store, 1, comm);
    } catch (const AgreedError& error) {
      ++agreed;
      EXPECT_NE(std::string(error.what()).find(folder), std::string::npos) << error.what();
    }
  });
  EXPECT_EQ(agreed, 3);
  EXPECT_EQ(refusal(config()), "");
}

// The names of folders decide; `latest` is for people.
TEST_F(CheckpointTest, CountsWithoutItsNameInLatest) {
  const ParamStore store = filled();
  save(store, 1);
  // Something that cannot be replaced by a file.
  fs::remove(folder_.file("latest"));
  fs::create_directories(folder_.file("latest/x"));
  run_local(
      3, [&](Communicator& comm) { save_checkpoint(folder_.path(), info_of(2), store, 1, comm); });
  EXPECT_EQ(verify_checkpoint(at(2)).fault, "");
  EXPECT_FALSE(fs::exists(at(1)));
}

TEST_F(CheckpointTest, AnotherModelIsRefusedByName) {
  save(filled(), 1);
  EXPECT_NE(refusal(config(3)).find("has no blocks.2."), std::string::npos);
  ModelConfig wide = config();
  wide.vocab = 42;
  const std::string what = refusal(wide);
  for (const char* part : {"emb.weight", "(41, 32)", "(42, 32)"}) {
    EXPECT_NE(what.find(part), std::string::npos) << what;
  }
}

TEST_F(CheckpointTest, DamagedFilesAreRefusedByName) {
  const ParamStore store = filled();
  const std::string rank = "/rank-1.h5";
  save(store, 1, 2);
  fs::resize_file(at(1) + rank, fs::file_size(at(1) + rank) - 100);
  EXPECT_NE(refusal(config()).find(rank), std::string::npos) << refusal(config());
  fs::remove(at(1) + rank);
  EXPECT_NE(refusal(config()).find(rank), std::string::npos) << refusal(config());
  fs::resize_file(at(1) + "/index.h5", 100);
  EXPECT_NE(refusal(config()).find("index.h5"), std::string::npos) << refusal(config());
  EXPECT_THROW(read_checkpoint_info(folder_.path()), InputError);
}

}  // namespace
}  // namespace rwkv
