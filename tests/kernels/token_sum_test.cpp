// What parallel.reduction: exact asks of the kernels: sums over tokens in fixed point that agree
// with sums of floats and do not change when the rows are cut at leaves, and rows that do not
// depend on their place.
#include <gtest/gtest.h>

#include "tests/kernels/tested_backends.h"

#include "core/base/arena.h"
#include "kernels/backend.h"
#include "tests/support/tensors.h"

namespace rwkv {
namespace {

using namespace test;

// Tensors of one type, owned.
struct Data {
  Data(DType type, const Shape& shape, const std::string& name, double scale = 1)
      : memory(shape.elements() * bytes_of(type)), view{memory.data(), type, shape} {
    if (!name.empty()) assign(view, normals(name, shape.elements(), scale));
  }
  Buffer memory;
  Tensor view;
};

// A gradient in fixed point.
struct FixedSum {
  explicit FixedSum(const Shape& shape)
      : sum(DType::kI64, shape, ""), peak(DType::kI64, {1}, ""), scale(0x1p30) {}
  TokenSum to() const { return {sum.view, peak.view, scale}; }
  std::vector<double> values() const {
    std::vector<double> out = doubles(sum.view);
    for (double& x : out) x /= scale;
    return out;
  }
  Data sum, peak;
  double scale;
};

struct SumCase {
  const Backend* ops;
  DType compute;

  bool on_fibers() const { return runs_on_fibers(*ops); }
};

std::vector<SumCase> cases() {
  std::vector<SumCase> all = {{&reference_backend(), DType::kF32}};
  for (const Backend* ops : tested_backends()) {
    all.push_back({ops, DType::kF32});
    if (ops->bf16) all.push_back({ops, DType::kBF16});
    if (ops->fp16) all.push_back({ops, DType::kF16});
  }
  return all;
}

class TokenSums : public testing::TestWithParam<SumCase> {};
INSTANTIATE_TEST_SUITE_P(All, TokenSums, testing::ValuesIn(cases()), [](const auto& chosen) {
  return test_name(*chosen.param.ops) + "_" + std::string(name_of(chosen.param.compute));
});

TEST_P(TokenSums, AWeightGradientInFixedPointIsThatOfFloats) {
  constexpr int64_t kTokens = 70, kSamples = 3;
  const Leaves leaves{kTokens, 32, 0};
  const SumCase& c = GetParam();
  // Over a block either way.
  const int64_t m = c.on_fibers() ? 20 : 300, n = c.on_fibers() ? 37 : 530;
  const Data left(c.compute, {kSamples * kTokens, m}, "left");
  const Data right(c.compute, {kSamples * kTokens, n}, "right");
  const Data floats(DType::kF32, {m, n}, "");
  FixedSum whole({m, n}), cut({m, n});
  c.ops->weight_gradient({2}, {left.view, right.view, floats.view});
  c.ops->weight_gradient({1}, {left.view, right.view, whole.to(), leaves});
  EXPECT_LT(distance(whole.values(), doubles(floats.view)), 1e-6);
  // Backwards, piece by piece: a leaf, a sample and a half, the rest.
  for (const auto& [begin, end] : {std::pair{102, 210}, {32, 102}, {0, 32}}) {
    c.ops->weight_gradient({2}, {left.view.rows(begin, end),
                                 right.view.rows(begin, end),
                                 cut.to(),
                                 {kTokens, 32, begin % kTokens}});
  }
  EXPECT_EQ(doubles(cut.sum.view), doubles(whole.sum.view));
  EXPECT_EQ(doubles(cut.peak.view), doubles(whole.peak.view));
}

TEST_P(TokenSums, ThePeakIsTheLargestPartial) {
  const SumCase& c = GetParam();
  const Data left(c.compute, {8, 3}, ""), right(c.compute, {8, 2}, "");
  assign(left.view, std::vector<double>(24, 0.5));
  assign(right.view, std::vector<double>(16, -2));
  FixedSum sum({3, 2});
  c.ops->weight_gradient({}, {left.view, right.view, sum.to(), {8, 4, 0}});
  EXPECT_EQ(magnitude_from_bits(sum.peak.view.as<int64_t>()[0]), 4);
  EXPECT_EQ(sum.values(), std::vector<double>(6, -8));
  std::vector<double> broken = doubles(right.view);
  broken[3] = NAN;
  assign(right.view, broken);
  c.ops->weight_gradient({}, {left.view, right.view, sum.to(), {8, 4, 0}});
  EXPECT_FALSE(std::isfinite(magnitude_from_bits(sum.peak.view.as<int64_t>()[0])));
}

// A product's rows keep their bits when the leaf is computed alone or beside others.
TEST_P(TokenSums, ProductsKeepToLeaves) {
  constexpr int64_t kTokens = 300;
  const SumCase& c = GetParam();
  if (c.ops->name == "reference") return;  // its products have no blocks
  const int64_t k = c.on_fibers() ? 40 : 768, n = c.on_fibers() ? 24 : 96;
  const Data a(c.compute, {2 * kTokens, k}, "a"), b(c.compute, {n, k}, "b", 0.1);
  const Data all(c.compute, {2 * kTokens, n}, ""), part(c.compute, {2 * kTokens, n}, "");
  c.ops->matmul(
      {2}, {.a = a.view, .b = b.view, .c = all.view, .trans_b = true, .leaves = {kTokens, 64, 0}});
  for (const auto& [begin, end] : {std::pair{0, 64}, {64, 300}, {300, 600}}) {
    c.ops->matmul({1}, {.a = a.view.rows(begin, end),
                        .b = b.view,
                        .c = part.view.rows(begin, end),
                        .trans_b = true,
                        .leaves = {kTokens, 64, begin % kTokens}});
  }
  EXPECT_EQ(doubles(part.view), doubles(all.view));
}

// Element-wise kernels run whole vectors and a rest: both must round alike.
TEST_P(TokenSums, ElementsKeepTheirBitsAtAnyPlace) {
  constexpr int64_t kCount = 200;
  const SumCase& c = GetParam();
  const Data x(c.compute, {kCount}, "x", 2), dy(c.compute, {kCount}, "dy");
  for (Activation kind : {Activation::kTanh, Activation::kSigmoid, Activation::kReluSquared}) {
    const Data whole(c.compute, {kCount}, ""), dwhole(c.compute, {kCount}, "");
    c.ops->activation_forward({}, {kind, x.view, whole.view});
    c.ops->activation_backward({}, {kind, x.view, dy.view, dwhole.view});
    for (int64_t begin = 1; begin < 40; ++begin) {
      const Data y(c.compute, {kCount}, ""), dx(c.compute, {kCount}, "");
      const auto from = [&](const Tensor& t) { return t.rows(begin, kCount - begin); };
      c.ops->activation_forward({}, {kind, from(x.view), from(y.view)});
      c.ops->activation_backward({}, {kind, from(x.view), from(dy.view), from(dx.view)});
      EXPECT_EQ(doubles(from(y.view)), doubles(from(whole.view))) << begin;
      EXPECT_EQ(doubles(from(dx.view)), doubles(from(dwhole.view))) << begin;
    }
  }
}

}  // namespace
}  // namespace rwkv
