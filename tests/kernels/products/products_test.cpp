// The products that go to cuBLASLt: what is asked of it, in which calls, and which of its
// algorithms is taken.
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include <library_products.h>
#include "core/base/arena.h"
#include "tests/kernels/products/fake_cublaslt.h"
#include "tests/kernels/two_backends.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

// A stream with the scratch that products take.
const Stream& stream() {
  static const Buffer room(cuda::kProductWorkspace);
  static const Stream own{.scratch = room.data(), .scratch_bytes = room.bytes()};
  return own;
}

Backend library_backend() {
  Backend t = reference_backend();
  t.matmul = [](const Stream&, const Matmul& op) {
    ASSERT_TRUE(cuda::library_takes(op));
    cuda::library_matmul(stream(), op);
  };
  t.weight_gradient = [](const Stream&, const WeightGradient& op) {
    ASSERT_TRUE(cuda::library_takes(op));
    cuda::library_weight_gradient(stream(), op);
  };
  return t;
}

class Products : public testing::Test {
 protected:
  void SetUp() override {
    fake::library().calls.clear();
    fake::library().times = {1};
    fake::library().refused.clear();
    fake::library().device = 0;
    fake::library().fuses = false;
    fake::library().fuses_rightly = fake::library().fuses_at_all = true;
    fake::library().fused_calls = 0;
    cuda::library_choices().measure(false);
  }
  // y (8, 16) of zeros: a shape of its own for each k.
  static void multiply(int64_t k, float beta = 0, int64_t leaf = 0) {
    Owned<float> a({8, k}), b({16, k}), c({8, 16});
    cuda::library_matmul(stream(), {.a = a.view(),
                                    .b = b.view(),
                                    .c = c.view(),
                                    .trans_b = true,
                                    .beta = beta,
                                    .leaves = {.tokens = 8, .leaf = leaf}});
  }
  static uint64_t last_algorithm() { return fake::library().calls.back().algorithm; }
};

TEST_F(Products, AgreeWithTheReference) {
  const Backend ops = library_backend();
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int which = 0; which < 8; ++which) {
      const bool trans_a = which & 1, trans_b = which & 2, adds = which & 4;
      TwoBackends b(type, ops, 1);
      b.input("a", trans_a ? Shape{24, 16} : Shape{16, 24});
      b.input("b", trans_b ? Shape{40, 24} : Shape{24, 40});
      b.output("c", {16, 40});
      b.output("sum", {16, 40});
      b.acc_output("gradient", {24, 40}, 0.5);
      b.input("right", {16, 40});
      b.run<Matmul>(&Backend::matmul, [&](const auto& t) {
        return Matmul{t("a"), t("b"), t("c"), trans_a, trans_b, adds ? 1.0f : 0.0f};
      });
      b.run<Matmul>(&Backend::matmul, [&](const auto& t) {
        return Matmul{t("a"), t("b"), t("sum"), trans_a, trans_b, adds ? 1.0f : 0.0f, t("c")};
      });
      if (!trans_a) {
        b.run<WeightGradient>(&Backend::weight_gradient, [&](const auto& t) {
          return WeightGradient{t("a"), t("right"), t("gradient")};
        });
      }
      b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
    }
  }
}

TEST_F(Products, LeavesAreCallsOfTheirOwnShape) {
  const Backend ops = library_backend();
  TwoBackends b(DType::kF32, ops, 1);
  // Two sequences of 11 tokens in leaves of 4: 4, 4, 3 each.
  b.input("a", {22, 24});
  b.input("b", {40, 24});
  b.input("add", {22, 40});
  b.output("c", {22, 40});
  b.run<Matmul>(&Backend::matmul, [&](const auto& t) {
    return Matmul{.a = t("a"),
                  .b = t("b"),
                  .c = t("c"),
                  .trans_b = true,
                  .beta = 1,
                  .add = t("add"),
                  .leaves = {.tokens = 11, .leaf = 4}};
  });
  b.expect_close(tolerance::kFloat, tolerance::kFloat);
  std::vector<std::pair<uint64_t, int32_t>> rows;
  for (const fake::ProductCall& call : fake::library().calls) {
    EXPECT_TRUE(call.whole);
    rows.emplace_back(call.n, call.count);
  }
  const std::vector<std::pair<uint64_t, int32_t>> wanted = {{4, 2}, {3, 1}, {4, 2}, {3, 1}};
  EXPECT_EQ(rows, wanted);
}

TEST_F(Products, LeafGradientsOfSomeColumns) {
  Owned<float> left({6, 16}), right({6, 8}), to({2, 4, 8});
  for (int64_t i = 0; i < left.size(); ++i) left[i] = static_cast<float>(i % 7) - 3;
  for (int64_t i = 0; i < right.size(); ++i) right[i] = static_cast<float>(i % 5) - 2;
  cuda::library_leaf_gradients(stream(), {left.view(), right.view(), 2, 4, 8, &to[0]});
  for (int64_t leaf = 0; leaf < 2; ++leaf) {
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t j = 0; j < 8; ++j) {
        float sum = 0;
        for (int64_t r = 3 * leaf; r < 3 * leaf + 3; ++r) {
          sum += left[r * 16 + 4 + i] * right[r * 8 + j];
        }
        EXPECT_EQ(to[(leaf * 4 + i) * 8 + j], sum);
      }
    }
  }
  EXPECT_EQ(fake::library().calls.size(), 1U);
  EXPECT_TRUE(fake::library().calls[0].whole);
}

TEST_F(Products, WhatIsNotAlignedIsLeftToThePlainKernels) {
  Owned<bf16> a({16, 12}), b({40, 12}), c({16, 40});
  EXPECT_FALSE(cuda::library_takes(Matmul{a.view(), b.view(), c.view(), false, true}));
  Owned<float> gradient({12, 40});
  Owned<bf16> right({16, 40});
  EXPECT_FALSE(cuda::library_takes(WeightGradient{a.view(), right.view(), gradient.view()}));
}

TEST_F(Products, TheFirstIsTakenUnlessMeasured) {
  fake::library().times = {1, 0.5};
  multiply(32);
  EXPECT_EQ(last_algorithm(), 0U);
  EXPECT_EQ(fake::library().calls.size(), 1U);
}

TEST_F(Products, TheFastestIsTakenWhenMeasuredAndKept) {
  fake::library().times = {1, 0.8f, 0.7f, 0.9f};
  cuda::library_choices().measure(true);
  multiply(48);
  EXPECT_EQ(last_algorithm(), 2U);
  const size_t calls = fake::library().calls.size();
  EXPECT_GT(calls, 12U);
  cuda::library_choices().measure(false);
  multiply(48);
  EXPECT_EQ(last_algorithm(), 2U);
  EXPECT_EQ(fake::library().calls.size(), calls + 1);
  // With or without splits, and adding or not, are shapes of their own.
  multiply(48, 0, 4);
  EXPECT_EQ(last_algorithm(), 0U);
  multiply(48, 1);
  EXPECT_EQ(last_algorithm(), 0U);
}

TEST_F(Products, ALittleFasterIsNoise) {
  fake::library().times = {1, 0.98f};
  cuda::library_choices().measure(true);
  multiply(64);
  EXPECT_EQ(last_algorithm(), 0U);
}

TEST_F(Products, OperandsAreSaidToBeginAtMultiplesOf16Bytes) {
  multiply(72);
  EXPECT_EQ(fake::library().alignment, 16U);
}

TEST_F(Products, OneThatIsRefusedIsPassedOver) {
  fake::library().times = {1, 0.5f, 0.7f};
  for (const uint64_t refused : {0U, 1U}) {
    fake::library().refused = {refused};
    cuda::library_choices().measure(true);
    multiply(refused == 0 ? 88 : 120);
    EXPECT_EQ(last_algorithm(), refused == 1 ? 2U : 1U);
  }
  fake::library().refused = {0, 1, 2};
  EXPECT_THROW(multiply(104), Error);
}

// The same choices with the first algorithm for every shape: its words follow the last type.
std::string with_algorithm_0(const std::string& text) {
  std::string out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line); out += line + "\n") {
    const size_t type = line.rfind("f32 ");
    if (type != std::string::npos) line[type + 4] = '0';
  }
  return out;
}

TEST_F(Products, ChoicesAreWrittenAndTakenAgain) {
  const ProductChoices& choices = cuda::library_choices();
  fake::library().times = {1, 0.5f};
  choices.measure(true);
  multiply(80);
  choices.measure(false);
  const std::string text = choices.write();
  EXPECT_EQ(text.substr(0, text.find('\n')), "cuBLASLt 130000, Fake GPU");
  EXPECT_EQ(choices.read(with_algorithm_0(text)), "");
  multiply(80);
  EXPECT_EQ(last_algorithm(), 0U);
  EXPECT_EQ(choices.read(text), "");
  EXPECT_EQ(choices.write(), text);
  multiply(80);
  EXPECT_EQ(last_algorithm(), 1U);

  EXPECT_EQ(choices.read("cuBLASLt 120000, Fake GPU\n"),
            "they are of 'cuBLASLt 120000, Fake GPU', this is 'cuBLASLt 130000, Fake GPU'");
  for (const std::string& damaged : {text.substr(0, text.size() - 20), text + "1 2\n",
                                     text + "# more\n", text.substr(0, text.size() - 1) + " 1\n"}) {
    EXPECT_NE(choices.read(damaged).find("is no choice for a product"), std::string::npos);
  }
  EXPECT_EQ(choices.write(), text);

  fake::library().refused = {1};
  EXPECT_EQ(choices.read(text), "its algorithm for a product of 8 x 80 x 16 does not run here");
}

TEST_F(Products, ChoicesThatAreTakenLeaveTheOthers) {
  const ProductChoices& choices = cuda::library_choices();
  const std::string before = choices.write();
  multiply(112);
  const std::string more = choices.write();
  ASSERT_NE(more, before);
  EXPECT_EQ(choices.read(before), "");
  EXPECT_EQ(choices.write(), more);
}

// The product by the library, and what follows by the reference.
void in_two(const Stream& stream, const ReluSquaredProduct& op) {
  cuda::library_matmul(stream, op.product);
  for (int64_t i = 0; i < op.product.c.elements(); ++i) {
    bf16& y = op.product.c.as<bf16>()[i];
    const float x = float(y);
    y = bf16(op.squared.empty() ? std::max(x, 0.0F) * std::max(x, 0.0F)
                                : x * 2 * std::sqrt(float(op.squared.as<bf16>()[i])));
  }
}

class ReluSquaredProducts : public Products {
 protected:
  // Forward with sums of k, and backward from what it gave. How many calls were of one kernel.
  static int run(int64_t k) {
    Owned<bf16> x({8, k}), key({16, k}), squared({8, 16}), dout({8, k}), value({k, 16}),
        dx({8, 16});
    for (const auto& m : {x.view(), key.view(), dout.view(), value.view()}) {
      for (int64_t i = 0; i < m.elements(); ++i) {
        m.as<bf16>()[i] = bf16(static_cast<float>(i % 7 - 2));
      }
    }
    const int before = fake::library().fused_calls;
    cuda::library_relu_squared(
        stream(), {{.a = x.view(), .b = key.view(), .c = squared.view(), .trans_b = true}}, in_two);
    cuda::library_relu_squared(
        stream(), {{.a = dout.view(), .b = value.view(), .c = dx.view()}, squared.view()}, in_two);
    return fake::library().fused_calls - before;
  }
};

TEST_F(ReluSquaredProducts, GoInTwoUnlessMeasuredFaster) {
  fake::library().fuses = true;
  fake::library().fused_time = 0.5F;
  EXPECT_EQ(run(200), 0) << "not measured";
  cuda::library_choices().measure(true);
  EXPECT_GT(run(208), 2) << "checked, timed and taken";
  cuda::library_choices().measure(false);
  EXPECT_EQ(run(208), 2);
  EXPECT_EQ(run(200), 0) << "as it was chosen";
  cuda::library_choices().measure(true);
  fake::library().fused_time = 0.99F;
  run(216);
  EXPECT_EQ(run(216), 0) << "a little faster is noise";
}

// Whether it is right is asked once a device.
TEST_F(ReluSquaredProducts, OneKernelThatIsWrongOrDoesNotStartIsNotTaken) {
  fake::library().fuses = true;
  fake::library().fused_time = 0.1F;
  for (const bool starts : {true, false}) {
    fake::library().device = starts ? 1 : 2;
    fake::library().fuses_rightly = !starts;
    fake::library().fuses_at_all = starts;
    cuda::library_choices().measure(true);
    run(224);
    EXPECT_EQ(run(224), 0) << starts;
    EXPECT_EQ(run(240), 0) << starts;
    // The check leaves nothing behind: products are measured as before.
    const size_t calls = fake::library().calls.size();
    fake::library().times = {1, 0.5F};
    multiply(256);
    EXPECT_GT(fake::library().calls.size(), calls + 2);
    EXPECT_EQ(cuda::library_choices().write().find(" 136 "), std::string::npos);
  }
}

TEST_F(ReluSquaredProducts, TheChecksOwnProductsAreNotAmongTheChoices) {
  fake::library().fuses = true;
  fake::library().fused_time = 0.1F;
  cuda::library_choices().measure(true);
  run(248);
  const std::string text = cuda::library_choices().write();
  EXPECT_NE(text.find("relu_squared 8 16 248 backward fused"), std::string::npos);
  EXPECT_EQ(text.find(" 136 "), std::string::npos) << text;
}

TEST_F(ReluSquaredProducts, ChoicesAreWrittenAndTakenAgain) {
  fake::library().fuses = true;
  fake::library().fused_time = 0.1F;
  const ProductChoices& choices = cuda::library_choices();
  choices.measure(true);
  run(232);
  choices.measure(false);
  const std::string text = choices.write(), line = "relu_squared 8 16 232 forward fused\n";
  const size_t at = text.find(line);
  ASSERT_NE(at, std::string::npos) << text;
  const auto with = [&](const std::string& other) {
    return std::string(text).replace(at, line.size(), other);
  };
  EXPECT_EQ(choices.read(with("relu_squared 8 16 232 forward apart\n")), "");
  EXPECT_EQ(run(232), 1) << "backward as it was";
  EXPECT_EQ(choices.read(text), "");
  EXPECT_EQ(run(232), 2);
  for (const char* damaged :
       {"relu_squared 8 16 232 sideways fused\n", "relu_squared 8 16 232 forward perhaps\n",
        "relu_squared 8 0 232 forward fused\n", "relu_squared 8 16 232 forward\n",
        "relu_squared 8 16 232 forward fused 1\n"}) {
    EXPECT_NE(choices.read(with(damaged)).find("is no choice for a product"), std::string::npos);
  }
}

TEST_F(Products, NoAlgorithmIsAnErrorThatSaysTheShape) {
  fake::library().times = {};
  try {
    multiply(96);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cuBLASLt has no algorithm for a product of 8 x 96 x 16");
  }
}

}  // namespace
}  // namespace rwkv
