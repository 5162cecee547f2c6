// The golden trajectory through the public door: weights as an official .pth, tokens as binidx, a
// recipe, the program, its metrics.jsonl and its checkpoint.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/io/checkpoint.h"
#include "core/io/tensor_file.h"
#include "core/plan/param_table.h"
#include "core/train/metrics.h"
#include "kernels/cuda_library.h"
#include "tests/support/golden.h"
#include "tests/support/model_run.h"
#include "tests/support/process.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

void append(std::string& to, const void* data, size_t bytes) {
  to.append(static_cast<const char*>(data), bytes);
}

template <class T>
void append_number(std::string& to, T value) {
  append(to, &value, sizeof value);
}

// One document of 16-bit tokens as PREFIX.bin and PREFIX.idx.
void write_binidx(const TempFolder& folder, const std::string& prefix,
                  const std::vector<int32_t>& tokens) {
  std::string bin, idx("MMIDIDX\0\0", 9);
  for (int32_t token : tokens) append_number(bin, static_cast<uint16_t>(token));
  append_number(idx, uint64_t{1});
  append_number(idx, uint8_t{8});
  append_number(idx, uint64_t{1});
  append_number(idx, uint64_t{2});
  append_number(idx, static_cast<int32_t>(tokens.size()));
  append_number(idx, int64_t{0});
  append_number(idx, int64_t{0});
  append_number(idx, int64_t{1});
  folder.write(prefix + ".bin", bin);
  folder.write(prefix + ".idx", idx);
}

void write_weights(const TempFolder& folder, const Golden& golden) {
  std::vector<NamedTensor> tensors;
  for (const ParamSpec& spec : param_table(golden.model())) {
    NamedTensor tensor{spec.name, {}, DType::kF32, {}};
    for (int i = 0; i < spec.shape.rank; ++i) tensor.shape.push_back(spec.shape[i]);
    for (double x : golden.read("params_init/" + spec.name)) {
      tensor.values.push_back(static_cast<float>(x));
    }
    tensors.push_back(std::move(tensor));
  }
  write_pth(folder.file("start.pth"), tensors, DType::kF32);
}

constexpr const char* kRecipe = R"(
run: {init_from: start.pth}
data: {source: binidx, path: stream, sampler: sequential}
train: {context: 48, batch: 4, steps: 40}
loss: {l2wrap: 1e-4}
optimizer: {lr: 3e-3, lr_final: 3e-4, warmup: 5, weight_decay: 1.0}
precision: fp32
)";

void expect_trajectory(const Golden& golden, const std::string& run_folder) {
  const std::vector<StepRow> rows = read_metrics(run_folder + "/metrics.jsonl", nullptr);
  const auto losses = golden.read("loss"), norms = golden.read("grad_norm"),
             lrs = golden.read("lr");
  ASSERT_EQ(rows.size(), losses.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_NEAR(rows[i].loss, losses[i], tolerance::kTrajectoryLoss) << "step " << i + 1;
    EXPECT_NEAR(rows[i].grad_norm / norms[i], 1, tolerance::kTrajectoryNorm) << "step " << i + 1;
    EXPECT_NEAR(rows[i].lr / lrs[i], 1, tolerance::kSameSums);
    EXPECT_EQ(rows[i].step, static_cast<int64_t>(i + 1));
    EXPECT_EQ(rows[i].tokens, static_cast<int64_t>((i + 1) * 4 * 48));
  }
  ParamStore store(param_table(golden.model()), kSingle, false);
  load_checkpoint(run_folder + "/checkpoints/step-40", store, false);
  for (size_t i = 0; i < store.size(); ++i) {
    const std::string& name = store.specs()[i].name;
    EXPECT_LT(distance(doubles(store.master(i)), golden.read("params_final/" + name)),
              tolerance::kTrajectoryTensor)
        << name;
  }
}

class TrajectoryDoor : public testing::Test {
 protected:
  void SetUp() override {
    write_weights(folder_, golden_);
    write_binidx(folder_, "stream", golden_.tokens("stream"));
    folder_.write("golden.yaml", kRecipe);
  }
  Golden golden_{"trajectory_a.h5"};
  TempFolder folder_;
};

TEST_F(TrajectoryDoor, OneProcess) {
  const Ended ended = run_program(folder_.path(), "golden.yaml");
  ASSERT_EQ(ended.code, 0) << ended.err << ended.out;
  expect_trajectory(golden_, folder_.file("runs/golden"));
}

TEST_F(TrajectoryDoor, ThreeRanksMicroBatchesAndRecompute) {
  const Ended ended = run_mpi(folder_.path(), 3,
                              "golden.yaml train.micro_batch=1 train.recompute=block run.dir=r3");
  ASSERT_EQ(ended.code, 0) << ended.err << ended.out;
  expect_trajectory(golden_, folder_.file("r3"));
}

TEST_F(TrajectoryDoor, OnTheGpu) {
  if (cuda_library().devices == 0) GTEST_SKIP() << cuda_library().why;
  for (const char* run : {"gpu", "again"}) {
    const Ended ended =
        run_program(folder_.path(), std::string("golden.yaml parallel.device=cuda run.dir=") + run);
    ASSERT_EQ(ended.code, 0) << ended.err << ended.out;
    expect_trajectory(golden_, folder_.file(run));
  }
  const auto first = read_metrics(folder_.file("gpu/metrics.jsonl"), nullptr);
  const auto second = read_metrics(folder_.file("again/metrics.jsonl"), nullptr);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i].loss, second[i].loss);
}

// eval of a .pth: losses and logits of the golden models' own forward pass.
TEST_F(TrajectoryDoor, EvalDumpsWhatTheModelComputes) {
  const Ended ended = run_program(
      folder_.path(),
      "eval start.pth data.source=binidx data.path=stream train.context=48 precision=fp32 "
      "--dump d.h5 --logits");
  ASSERT_EQ(ended.code, 0) << ended.err;
  const Hdf5File dump = Hdf5File::open(folder_.file("d.h5"));
  const int64_t samples = (7681 - 1) / 48;
  EXPECT_EQ(dump.shape_of("loss"), (Shape{samples, 48}));
  EXPECT_EQ(dump.shape_of("logits"), (Shape{samples, 48, 64}));
  EXPECT_EQ(dump.shape_of("state/1/wkv"), (Shape{samples, 2, 32, 32}));
  std::vector<float> loss(static_cast<size_t>(samples * 48)), logits(loss.size() * 64);
  dump.read("loss", view_of(loss.data(), {samples, 48}));
  dump.read("logits", view_of(logits.data(), {samples, 48, 64}));
  // The first step of the trajectory reads samples 0 to 3 with these weights.
  double mean = 0;
  for (size_t i = 0; i < 4 * 48; ++i) mean += static_cast<double>(loss[i]) / (4 * 48);
  EXPECT_NEAR(mean, golden_.read("loss")[0], tolerance::kTrajectoryLoss);
  // Losses are those of the logits.
  const std::vector<int32_t> stream = golden_.tokens("stream");
  for (size_t i = 0; i < loss.size(); i += 97) {
    double sum = 0;
    for (size_t v = 0; v < 64; ++v) sum += std::exp(static_cast<double>(logits[i * 64 + v]));
    const double nats =
        std::log(sum) - static_cast<double>(logits[i * 64 + static_cast<size_t>(stream[i + 1])]);
    EXPECT_NEAR(static_cast<double>(loss[i]), nats, 1e-4);
  }
}

}  // namespace
}  // namespace rwkv
