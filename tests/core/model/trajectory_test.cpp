// 40 steps of training against golden numbers, and mistakes that must be noticed: each is planted
// on purpose and has to leave the tolerance that the right program keeps.
#include "tests/support/trajectory.h"

#include <gtest/gtest.h>

#include "kernels/reference/time_mix.h"
#include "tests/support/emulator/emulator_backend.h"
#include "tests/support/gpu/gpu_backend.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

class Trajectory : public testing::Test {
 protected:
  Golden golden_{"trajectory_a.h5"};
  std::vector<ParamSpec> table_ = param_table(golden_.model());
  static constexpr int64_t kSteps = 40;
};

TEST_F(Trajectory, ReferenceInDouble) {
  const TrajectoryResult got =
      run_trajectory(golden_, reference_backend(), kDouble, table_, kSteps);
  EXPECT_LT(got.worst_loss, tolerance::kGolden);
  EXPECT_LT(got.worst_norm, tolerance::kGolden);
  EXPECT_LT(got.worst_lr, tolerance::kSameSums);
  EXPECT_LT(got.worst_tensor, tolerance::kTrajectoryTensor) << got.tensor;
}

TEST_F(Trajectory, CpuInFloat) {
  const TrajectoryResult got = run_trajectory(golden_, cpu_backend(), kSingle, table_, kSteps);
  EXPECT_LT(got.worst_loss, tolerance::kTrajectoryLoss);
  EXPECT_LT(got.worst_norm, tolerance::kTrajectoryNorm);
  EXPECT_LT(got.worst_tensor, tolerance::kTrajectoryTensor) << got.tensor;
}

// Fewer steps: fibers are slow. Final tensors are those of all 40.
TEST_F(Trajectory, CudaKernelsOnTheEmulatorInFloat) {
  constexpr int64_t kFewSteps = 6;
  const TrajectoryResult got =
      run_trajectory(golden_, emulator_backend(), kSingle, table_, kFewSteps);
  EXPECT_LT(got.worst_loss, tolerance::kTrajectoryLoss);
  EXPECT_LT(got.worst_norm, tolerance::kTrajectoryNorm);
}

TEST_F(Trajectory, GpuInFloat) {
  const Backend* gpu = gpu_backend();
  if (gpu == nullptr) GTEST_SKIP() << why_no_gpu();
  const TrajectoryResult got = run_trajectory(golden_, *gpu, kSingle, table_, kSteps);
  EXPECT_LT(got.worst_loss, tolerance::kTrajectoryLoss);
  EXPECT_LT(got.worst_norm, tolerance::kTrajectoryNorm);
  EXPECT_LT(got.worst_tensor, tolerance::kTrajectoryTensor) << got.tensor;
  const TrajectoryResult again = run_trajectory(golden_, *gpu, kSingle, table_, kSteps);
  EXPECT_EQ(again.worst_loss, got.worst_loss);  // the same bits run to run
  EXPECT_EQ(again.worst_tensor, got.worst_tensor);
}

// Planted mistakes in the table: some step's loss or some final tensor must be off.
class PlantedInTheTable : public Trajectory {
 protected:
  bool noticed() {
    const TrajectoryResult got = run_trajectory(golden_, cpu_backend(), kSingle, table_, kSteps);
    return got.worst_loss > tolerance::kTrajectoryLoss ||
           got.worst_tensor > tolerance::kTrajectoryTensor;
  }
};

TEST_F(PlantedInTheTable, TheRightTableIsNotNoticed) { EXPECT_FALSE(noticed()); }

TEST_F(PlantedInTheTable, W0AtPlainLearningRateIsNoticed) {
  for (ParamSpec& spec : table_) spec.lr_scale = 1;
  EXPECT_TRUE(noticed());
}

TEST_F(PlantedInTheTable, DecayOnEverythingIsNoticed) {
  for (ParamSpec& spec : table_) spec.decay = true;
  EXPECT_TRUE(noticed());
}

TEST_F(PlantedInTheTable, DecayOnNothingIsNoticed) {
  for (ParamSpec& spec : table_) spec.decay = false;
  EXPECT_TRUE(noticed());
}

// Planted mistakes in a kernel: the reference's table with one op replaced.
double model_distance(const Backend& ops) {
  const Golden golden("model_a.h5");
  ParamStore store(param_table(golden.model()), kDouble, true);
  load_params(golden, "params", store);
  const ModelResults got =
      run_model({ops, kDouble}, golden.model(), store, golden.tokens("tokens"),
                golden.config()["batch"], golden_states(golden, "state_in", golden.model().layers));
  return distance(got.logits, golden.read("logits"));
}

TEST(PlantedMistakes, TheRightKernelsPass) {
  EXPECT_LT(model_distance(reference_backend()), tolerance::kGolden);
}

TEST(PlantedMistakes, KappaFromTheModifiedKeyIsNoticed) {
  Backend wrong = reference_backend();
  wrong.time_mix_in_forward = [](const Stream& stream, const TimeMixInForward& op) {
    reference::time_mix_in_forward<double>(stream, op);
    const int64_t width = op.a0.elements(), rows = op.key.elements() / width;
    const double *k = op.k.as<double>(), *k_k = op.k_k.as<double>();
    double *a = op.a.as<double>(), *b = op.b.as<double>();
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t head = 0; head < width; head += op.head_size) {
        bool clipped;
        const double norm =
            reference::kappa_norm(k + row * width + head, k_k + head, op.head_size, &clipped);
        for (int64_t c = head; c < head + op.head_size; ++c) {
          const int64_t i = row * width + c;
          const double rate = a[i] == 0 ? 0 : -b[i] / a[i];
          a[i] = -k[i] * k_k[c] / norm;
          b[i] = -a[i] * rate;
        }
      }
    }
  };
  EXPECT_GT(model_distance(wrong), tolerance::kGolden);
}

TEST(PlantedMistakes, GroupNormWithTheEpsilonOfLayerNormIsNoticed) {
  Backend wrong = reference_backend();
  wrong.time_mix_out_forward = [](const Stream& stream, const TimeMixOutForward& op) {
    TimeMixOutForward other = op;
    other.eps = 1e-5;
    reference::time_mix_out_forward<double>(stream, other);
  };
  EXPECT_GT(model_distance(wrong), tolerance::kGolden);
}

// The row before the previous one takes the place of the previous one.
void shift_twice(const Stream& stream, const TokenShiftForward& op) {
  const int64_t batch = op.u.shape[0], tokens = op.u.shape[1], width = op.u.shape[2];
  reference_backend().token_shift_forward(stream, op);
  const double* u = op.u.as<double>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 2; t < tokens; ++t) {
      for (int64_t c = 0; c < width; ++c) {
        const int64_t i = (b * tokens + t) * width + c;
        for (size_t m = 0; m < static_cast<size_t>(op.mixes); ++m) {
          op.out[m].as<double>()[i] = u[i] + (u[i - 2 * width] - u[i]) * op.mix[m].as<double>()[c];
        }
      }
    }
  }
}

TEST(PlantedMistakes, ADoubleTokenShiftIsNoticed) {
  Backend wrong = reference_backend();
  wrong.token_shift_forward = shift_twice;
  wrong.norm_shift_forward = [](const Stream& stream, const NormShiftForward& op) {
    reference_backend().layer_norm_forward(stream, op.norm);
    shift_twice(stream, op.shift);
  };
  EXPECT_GT(model_distance(wrong), tolerance::kGolden);
}

}  // namespace
}  // namespace rwkv
