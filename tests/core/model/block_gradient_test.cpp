// The block's backward pass in double against central differences: every parameter, the incoming
// states, halo rows included, and the residual and v_first inputs.
#include <gtest/gtest.h>

#include "core/model/rwkv7_block.h"
#include "tests/support/model_run.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

ModelConfig small_model() {
  ModelConfig model;
  model.layers = 2;
  model.width = 16;
  model.head_size = 8;
  model.ffn_width = 24;
  model.vocab = 11;
  model.lora_rank = {4, 4, 4, 4};
  return model;
}

// One block with everything that its functions touch, in double.
class BlockUnderTest {
 public:
  static constexpr int64_t kB = 2, kT = 18;

  explicit BlockUnderTest(int64_t layer)
      : block_(small_model(), layer), store_(block_.params(), kDouble, true) {
    for (size_t i = 0; i < store_.size(); ++i) {
      const Tensor m = store_.master(i);
      assign(m, normals("param " + store_.specs()[i].name, m.elements(), 0.4));
    }
    Arena saved, scratch;
    const BlockPlan plan{kDouble, kB, kT, 1, true};
    block_.plan(saved, scratch, plan);
    memory_.emplace_back(saved.peak());
    memory_.emplace_back(scratch.peak());
    Arena real_saved(memory_[0].data(), saved.peak()),
        real_scratch(memory_[1].data(), scratch.peak());
    saved_ = block_.plan(real_saved, real_scratch, plan);
    for (const char* name : {"x", "v_first", "out", "dx", "dv_first", "weight_out", "weight_v"}) {
      tensors_[name] = Owned<double>({kB, kT, 16});
    }
    for (const char* name : {"x", "v_first", "weight_out", "weight_v"}) fill(tensors_[name], name);
    for (const Carry& carry : block_.carries()) {
      Shape shape{kB};
      for (int i = 0; i < carry.shape.rank; ++i) {
        shape.dim[static_cast<size_t>(shape.rank++)] = carry.shape[i];
      }
      for (auto* list : {&entering_, &leaving_, &dleaving_, &dentering_}) {
        list->push_back(Owned<double>(shape));
      }
      fill(entering_.back(), "entering " + carry.name);
      fill(dleaving_.back(), "dleaving " + carry.name);
    }
    first_ = layer == 0;
  }

  // sum of out * weight + leaving * dleaving (+ v_first * weight in the first layer).
  double value() {
    const std::vector<Tensor> in = views(entering_), out = views(leaving_);
    block_.forward({Stream{}, reference_backend()}, params(), *saved_,
                   {tensors_["x"].view(), tensors_["v_first"].view()},
                   {tensors_["out"].view(), tensors_["v_first"].view()}, in, out);
    double sum = dot(tensors_["out"], tensors_["weight_out"]);
    if (first_) sum += dot(tensors_["v_first"], tensors_["weight_v"]);
    for (size_t i = 0; i < leaving_.size(); ++i) sum += dot(leaving_[i], dleaving_[i]);
    return sum;
  }

  void backward() {
    value();
    store_.zero_gradients();
    tensors_["dx"].set(tensors_["weight_out"].copy());
    if (first_) tensors_["dv_first"].set(tensors_["weight_v"].copy());
    const Flow gradient{tensors_["dx"].view(), tensors_["dv_first"].view()};
    block_.backward({Stream{}, reference_backend()}, params(), *saved_,
                    {tensors_["x"].view(), tensors_["v_first"].view()}, gradient, gradient,
                    views(entering_), views(dleaving_), views(dentering_));
  }

  // |backward - central difference| relative to the largest gradient of the tensor, over a sample
  // of its elements.
  double error(Tensor at, const Tensor& gradient) {
    double scale = 1e-12, worst = 0;
    for (double g : doubles(gradient)) raise(scale, std::fabs(g));
    const int64_t step = std::max<int64_t>(1, at.elements() / 24);
    for (int64_t i = 0; i < at.elements(); i += step) {
      constexpr double kH = 1e-5;
      double& x = at.as<double>()[i];
      const double before = x;
      x = before + kH;
      const double above = value();
      x = before - kH;
      const double below = value();
      x = before;
      raise(worst, std::fabs((above - below) / (2 * kH) - gradient.as<double>()[i]));
    }
    return worst / scale;
  }

  std::span<const Param> params() const { return store_.params(0, store_.size()); }
  static std::vector<Tensor> views(std::vector<Owned<double>>& list) {
    std::vector<Tensor> out;
    for (auto& t : list) out.push_back(t.view());
    return out;
  }
  static void fill(Owned<double>& t, const std::string& name) {
    t.set(normals(name, t.size(), 0.5));
  }
  static double dot(const Owned<double>& a, const Owned<double>& b) {
    double sum = 0;
    for (int64_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }

  Rwkv7Block block_;
  ParamStore store_;
  std::vector<Buffer> memory_;
  std::unique_ptr<Saved> saved_;
  std::map<std::string, Owned<double>> tensors_;
  std::vector<Owned<double>> entering_, leaving_, dleaving_, dentering_;
  bool first_ = false;
};

class BlockGradient : public testing::TestWithParam<int64_t> {};

TEST_P(BlockGradient, MatchesCentralDifferences) {
  BlockUnderTest block(GetParam());
  block.backward();
  // The differences run the forward pass again and again: keep what backward gave.
  std::vector<Owned<double>> grads;
  for (size_t i = 0; i < block.store_.size(); ++i) {
    grads.emplace_back(block.store_.specs()[i].shape);
    grads.back().set(doubles(block.store_.grad(i)));
  }
  for (size_t i = 0; i < grads.size(); ++i) {
    EXPECT_LT(block.error(block.store_.master(i), grads[i].view()), tolerance::kCentral)
        << block.store_.specs()[i].name;
  }
  EXPECT_LT(block.error(block.tensors_["x"].view(), block.tensors_["dx"].view()),
            tolerance::kCentral);
  for (size_t i = 0; i < block.entering_.size(); ++i) {
    EXPECT_LT(block.error(block.entering_[i].view(), block.dentering_[i].view()),
              tolerance::kCentral)
        << block.block_.carries()[i].name;
  }
  if (GetParam() > 0) {
    EXPECT_LT(block.error(block.tensors_["v_first"].view(), block.tensors_["dv_first"].view()),
              tolerance::kCentral);
  }
}

TEST_P(BlockGradient, FindsALostHaloGradient) {
  BlockUnderTest block(GetParam());
  block.backward();
  Owned<double> lost(block.dentering_[0].view().shape);
  EXPECT_GT(block.error(block.entering_[0].view(), lost.view()), tolerance::kCentral);
}

INSTANTIATE_TEST_SUITE_P(Layers, BlockGradient, testing::Values(0, 1));

}  // namespace
}  // namespace rwkv
