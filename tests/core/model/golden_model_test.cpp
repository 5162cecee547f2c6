// Whole models against golden numbers: reference in double, CPU and emulated CUDA kernels in
// float32, bf16 and fp16.
#include <gtest/gtest.h>

#include "core/plan/param_table.h"
#include "tests/support/emulator/emulator_backend.h"
#include "tests/support/gpu/gpu_backend.h"
#include "tests/support/model_run.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

struct Case {
  const char* file;
  const char* precision;
  const char* where = "cpu";  // emulator: the CUDA kernels' code on the host; gpu
};

// nullptr: there is no GPU.
const Backend* backend_of(const Case& c) {
  const std::string where = c.where;
  if (where == "gpu") return gpu_backend();
  if (where == "emulator") return &emulator_backend();
  return &cpu_backend();
}

class GoldenModel : public testing::TestWithParam<Case> {
 protected:
  ModelRun how() const {
    const std::string p = GetParam().precision;
    if (p == "fp64") return {reference_backend(), kDouble};
    const Backend* ops = backend_of(GetParam());
    const Precision half = p == "fp16" ? Precision{DType::kF16, DType::kF32} : kHalf;
    return {ops == nullptr ? cpu_backend() : *ops, p == "fp32" ? kSingle : half};
  }
  bool runs_here() const {
    if (backend_of(GetParam()) == nullptr) return false;
    const ModelRun run = how();
    return run.precision.compute != DType::kBF16 || run.ops.bf16;
  }
  double tolerance(double fp64, double fp32, double half) const {
    const std::string p = GetParam().precision;
    return p == "fp64" ? fp64 : p == "fp32" ? fp32 : half;
  }
};

double global_distance(const Golden& golden, const ModelResults& results) {
  std::vector<double> all, expected;
  for (const auto& [name, grad] : results.grads) {
    const std::vector<double> want = golden.read("grads/" + name);
    all.insert(all.end(), grad.begin(), grad.end());
    expected.insert(expected.end(), want.begin(), want.end());
  }
  return distance(all, expected);
}

TEST_P(GoldenModel, LossLogitsGradientsAndStates) {
  if (!runs_here()) GTEST_SKIP() << "no bf16 products on this CPU, or no GPU";
  const Golden golden(GetParam().file);
  const ModelConfig config = golden.model();
  ModelRun run = how();
  run.l2wrap = golden.config()["l2wrap"];
  ParamStore store(param_table(config), run.precision, true);
  load_params(golden, "params", store);
  const int64_t batch = golden.config()["batch"];
  const auto entering = golden_states(golden, "state_in", config.layers);
  const ModelResults got = run_model(run, config, store, golden.tokens("tokens"), batch, entering);

  EXPECT_NEAR(got.loss, golden.number("loss"), tolerance(1e-6, 1e-5, 1e-2));
  EXPECT_LT(distance(got.logits, golden.read("logits")),
            tolerance(tolerance::kGolden, tolerance::kFloat, tolerance::kBf16Logits));
  EXPECT_LT(global_distance(golden, got),
            tolerance(tolerance::kGolden, tolerance::kFloat, tolerance::kBf16ModelGradient));
  for (const auto& [name, grad] : got.grads) {
    EXPECT_LT(distance(grad, golden.read("grads/" + name)),
              tolerance(tolerance::kGolden, tolerance::kFloat, tolerance::kBf16TensorGradient))
        << name;
  }
  const auto leaving = golden_states(golden, "state_out", config.layers);
  const auto dentering = golden_states(golden, "dstate_in", config.layers);
  for (size_t l = 0; l < leaving.size(); ++l) {
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LT(distance(got.leaving[l][i], leaving[l][i]),
                tolerance(tolerance::kGolden, tolerance::kFloat, tolerance::kBf16Logits))
          << "layer " << l << " carry " << i;
      EXPECT_LT(distance(got.dentering[l][i], dentering[l][i]),
                tolerance(tolerance::kGolden, tolerance::kFloat, tolerance::kBf16TensorGradient))
          << "layer " << l << " carry " << i;
    }
  }
}

TEST_P(GoldenModel, FromTheZeroState) {
  if (!runs_here()) GTEST_SKIP() << "no bf16 products on this CPU, or no GPU";
  const Golden golden(GetParam().file);
  const ModelRun run = how();
  ParamStore store(param_table(golden.model()), run.precision, true);
  load_params(golden, "params", store);
  const ModelResults got =
      run_model(run, golden.model(), store, golden.tokens("tokens"), golden.config()["batch"]);
  EXPECT_NEAR(got.loss, golden.number("loss_from_zero_state"), tolerance(1e-6, 1e-5, 1e-2));
  EXPECT_LT(distance(got.logits, golden.read("logits_from_zero_state")),
            tolerance(tolerance::kGolden, tolerance::kFloat, tolerance::kBf16Logits));
}

TEST_P(GoldenModel, RecomputeAndThreadsKeepTheBits) {
  const Golden golden(GetParam().file);
  ModelRun run = how();
  if (!runs_here()) GTEST_SKIP() << "no bf16 products on this CPU, or no GPU";
  ParamStore store(param_table(golden.model()), run.precision, true);
  load_params(golden, "params", store);
  const auto entering = golden_states(golden, "state_in", golden.model().layers);
  const auto once = [&] {
    return run_model(run, golden.model(), store, golden.tokens("tokens"), golden.config()["batch"],
                     entering);
  };
  const ModelResults plain = once();
  run.keep_mixes = false;
  const ModelResults mixed_again = once();
  run.recompute = true;
  const ModelResults recomputed = once();
  run.threads = 2;
  const ModelResults threaded = once();
  EXPECT_EQ(plain.loss, mixed_again.loss);
  EXPECT_EQ(plain.grads, mixed_again.grads);
  EXPECT_EQ(plain.dentering, mixed_again.dentering);
  EXPECT_EQ(plain.loss, recomputed.loss);
  EXPECT_EQ(plain.grads, recomputed.grads);
  EXPECT_EQ(plain.dentering, recomputed.dentering);
  EXPECT_EQ(plain.loss, threaded.loss);
  EXPECT_EQ(plain.grads, threaded.grads);
}

INSTANTIATE_TEST_SUITE_P(
    All, GoldenModel,
    testing::Values(Case{"model_a.h5", "fp64"}, Case{"model_a.h5", "fp32"},
                    Case{"model_a.h5", "bf16"}, Case{"model_b_l2wrap.h5", "fp64"},
                    Case{"model_b_l2wrap.h5", "fp32"}, Case{"model_b_l2wrap.h5", "bf16"},
                    Case{"model_a.h5", "fp32", "emulator"}, Case{"model_a.h5", "bf16", "emulator"},
                    Case{"model_a.h5", "fp16", "emulator"}, Case{"model_a.h5", "fp16", "gpu"},
                    Case{"model_b_l2wrap.h5", "fp32", "emulator"},
                    Case{"model_a.h5", "fp32", "gpu"}, Case{"model_a.h5", "bf16", "gpu"},
                    Case{"model_b_l2wrap.h5", "fp32", "gpu"},
                    Case{"model_b_l2wrap.h5", "bf16", "gpu"}),
    [](const auto& chosen) {
      return std::string(chosen.param.file).substr(0, 7) + "_" + chosen.param.precision + "_" +
             chosen.param.where;
    });

}  // namespace
}  // namespace rwkv
