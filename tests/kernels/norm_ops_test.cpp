// Layer norm, token shift, both as one op, and the optimizer's ops (as ops_test.cpp).
#include <deque>

#include "tests/kernels/on_every_backend.h"

namespace rwkv {
namespace {

using namespace test;

class NormOps : public OnEveryBackend {};

TEST_P(NormOps, LayerNorm) {
  TwoBackends b = bench();
  b.input("x", kFlat, 3);
  b.acc_input("weight", {kWidth});
  b.acc_input("bias", {kWidth});
  b.input("dout", kFlat);
  b.input("residual", kFlat);
  b.output("out", kFlat);
  b.acc_output("mean", {kRows});
  b.acc_output("rstd", {kRows});
  b.output("dx", kFlat);
  b.acc_output("dweight", {kWidth}, 1);
  b.acc_output("dbias", {kWidth}, 1);
  b.run<LayerNormForward>(&Backend::layer_norm_forward, [](const auto& t) {
    return LayerNormForward{t("x"), t("weight"), t("bias"), 1e-5, t("out"), t("mean"), t("rstd")};
  });
  b.run<LayerNormBackward>(&Backend::layer_norm_backward, [](const auto& t) {
    return LayerNormBackward{t("x"),    t("weight"),   t("bias"), t("mean"),    t("rstd"),
                             t("dout"), t("residual"), t("dx"),   t("dweight"), t("dbias")};
  });
  b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
}

// The row before the first token, the mixes and what they give, as an op takes them.
template <class Op, class Lookup>
void set_mixes(Op& op, int mixes, const Lookup& t) {
  op.halo = t("halo");
  op.mixes = mixes;
  for (size_t m = 0; m < static_cast<size_t>(mixes); ++m) {
    op.mix[m] = t("mix" + std::to_string(m));
    if constexpr (requires { op.out; }) op.out[m] = t("out" + std::to_string(m));
    if constexpr (requires { op.dout; }) op.dout[m] = t("dout" + std::to_string(m));
    if constexpr (requires { op.dmix; }) op.dmix[m] = t("dmix" + std::to_string(m));
  }
}

void add_shift(TwoBackends& b, int mixes, const Shape& sequence) {
  b.acc_input("halo", {sequence[0], sequence[2]});
  for (int m = 0; m < mixes; ++m) {
    const std::string i = std::to_string(m);
    b.acc_input("mix" + i, {sequence[2]});
    b.input("dout" + i, sequence);
    b.output("out" + i, sequence);
    b.acc_output("dmix" + i, {sequence[2]});
  }
}

TEST_P(NormOps, TokenShift) {
  Owned<int32_t> starts({2, 35});
  starts[17] = starts[35] = 1;
  for (const int mixes : {1, 6}) {
    const Shape sequence{2, 35, kWidth};
    TwoBackends b = bench();
    b.input("u", sequence);
    add_shift(b, mixes, sequence);
    b.acc_output("halo_out", {2, kWidth});
    b.acc_output("dhalo", {2, kWidth});
    b.run<TokenShiftForward>(&Backend::token_shift_forward, [&](const auto& t) {
      TokenShiftForward op{.u = t("u"), .halo = {}, .mix = {}, .out = {}, .starts = starts.view()};
      set_mixes(op, mixes, t);
      return op;
    });
    b.run<HaloForward>(&Backend::halo_forward, [&](const auto& t) {
      return HaloForward{t("u"), 30, t("halo_out")};
    });
    b.run<HaloBackward>(&Backend::halo_backward, [&](const auto& t) {
      HaloBackward op{
          .mixes = mixes, .mix = {}, .dout = {}, .starts = starts.view(), .dhalo = t("dhalo")};
      for (size_t m = 0; m < static_cast<size_t>(mixes); ++m) {
        op.mix[m] = t("mix" + std::to_string(m));
        op.dout[m] = t("dout" + std::to_string(m));
      }
      return op;
    });
    b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
  }
}

// Longer than a slab and than the rows of a block; the row handed on is not the last.
TEST_P(NormOps, NormAndShift) {
  const int64_t tokens = 77, at = 70;
  Owned<int32_t> starts({2, tokens});
  starts[0] = starts[17] = starts[32] = starts[tokens + 64] = 1;
  for (const int64_t width : {kWidth, int64_t{45}}) {
    for (const auto& [mixes, keeps] : {std::pair{1, true}, {6, true}, {6, false}}) {
      const Shape sequence{2, tokens, width};
      TwoBackends b = bench();
      b.input("x", sequence, 3);
      for (const char* name : {"weight", "bias"}) b.acc_input(name, {width});
      b.input("residual", sequence);
      b.acc_input("dhalo_out", {2, width});
      add_shift(b, mixes, sequence);
      keeps ? b.output("u", sequence) : b.input("u", sequence);
      b.input("du", sequence);  // room: what is left there has no meaning
      b.output("dx", sequence);
      for (const char* name : {"mean", "rstd"}) b.acc_output(name, {2 * tokens});
      for (const char* name : {"dweight", "dbias"}) b.acc_output(name, {width}, 1);
      b.run<NormShiftForward>(
          &Backend::norm_shift_forward, [&, n = mixes, k = keeps](const auto& t) {
            NormShiftForward op{
                {t("x"), t("weight"), t("bias"), 1e-5, t("u"), t("mean"), t("rstd")},
                {.u = t("u"), .halo = {}, .mix = {}, .out = {}, .starts = starts.view()},
                k};
            set_mixes(op.shift, n, t);
            return op;
          });
      b.run<NormShiftBackward>(&Backend::norm_shift_backward, [&, n = mixes](const auto& t) {
        NormShiftBackward op{{t("x"), t("weight"), t("bias"), t("mean"), t("rstd"), t("du"),
                              t("residual"), t("dx"), t("dweight"), t("dbias")},
                             {.u = t("u"),
                              .halo = {},
                              .dhalo_out = t("dhalo_out"),
                              .at = at,
                              .mix = {},
                              .dout = {},
                              .du = t("du"),
                              .dmix = {},
                              .starts = starts.view()}};
        set_mixes(op.shift, n, t);
        return op;
      });
      b.expect_close(tolerance::kFloat, tolerance::kBf16Gradient);
    }
  }
}

// On a GPU the number of channels of a thread goes by the width, and the widest are not fused.
TEST_P(NormOps, WideRows) {
  for (const int64_t width : {2048, 2056, 3072, 3080, 4096, 4104}) {
    const Shape sequence{1, 2, width};
    TwoBackends b = bench();
    b.input("x", sequence, 3);
    for (const char* name : {"weight", "bias"}) b.acc_input(name, {width});
    add_shift(b, kMaxMixes, sequence);
    for (const char* name : {"residual", "du"}) b.input(name, sequence);
    for (const char* name : {"u", "dx"}) b.output(name, sequence);
    for (const char* name : {"mean", "rstd"}) b.acc_output(name, {2});
    for (const char* name : {"dweight", "dbias"}) b.acc_output(name, {width}, 1);
    b.run<NormShiftForward>(&Backend::norm_shift_forward, [](const auto& t) {
      NormShiftForward op{{t("x"), t("weight"), t("bias"), 1e-5, t("u"), t("mean"), t("rstd")},
                          {.u = t("u"), .halo = {}, .mix = {}, .out = {}}};
      set_mixes(op.shift, kMaxMixes, t);
      return op;
    });
    b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
    // Backward the widest that is one kernel, and the next.
    if (width <= 2056) {
      b.run<NormShiftBackward>(&Backend::norm_shift_backward, [](const auto& t) {
        NormShiftBackward op{{t("x"), t("weight"), t("bias"), t("mean"), t("rstd"), t("du"),
                              t("residual"), t("dx"), t("dweight"), t("dbias")},
                             {.u = t("u"),
                              .halo = {},
                              .dhalo_out = {},
                              .mix = {},
                              .dout = {},
                              .du = t("du"),
                              .dmix = {}}};
        set_mixes(op.shift, kMaxMixes, t);
        return op;
      });
      b.expect_close(tolerance::kFloat, tolerance::kBf16Gradient);
    }
  }
}

TEST_P(NormOps, AdamWAndSums) {
  TwoBackends b = bench();
  // More tensors than a launch takes, of lengths with and without rests; in bf16 some have a copy.
  constexpr int kTensors = 45;
  const auto name_of = [](const char* what, int i) { return what + std::to_string(i); };
  for (int i = 0; i < kTensors; ++i) {
    const Shape shape{i == 0 ? 40000 : 1 + i * i * 3};
    b.acc_input(name_of("grad", i), shape);
    b.acc_output(name_of("master", i), shape, 0.7);
    b.acc_output(name_of("m", i), shape, 0.1);
    b.acc_output(name_of("v", i), shape, 0.2);
  }
  std::vector<std::vector<AdamWTensor>> lists;
  std::deque<Owned<uint16_t>> copies;  // 16-bit floats
  b.run<AdamW>(&Backend::adamw, [&](const auto& t) {
    std::vector<AdamWTensor>& list = lists.emplace_back();
    for (int i = 0; i < kTensors; ++i) {
      list.push_back({.master = t(name_of("master", i)),
                      .m = t(name_of("m", i)),
                      .v = t(name_of("v", i)),
                      .grad = t(name_of("grad", i)),
                      .compute = {},
                      .lr = 1e-2 * (1 + i % 3),
                      .decay = i % 2 == 0 ? 0.1 : 0});
      if (lists.size() == 1 || b.compute() == DType::kF32 || i > 3) continue;
      list.back().compute = copies.emplace_back(list.back().master.shape).view();
      list.back().compute.dtype = b.compute();
    }
    return AdamW{.tensors = list,
                 .grad_scale = 0.3,
                 .beta1 = 0.9,
                 .beta2 = 0.99,
                 .eps = 1e-18,
                 .correction1 = 0.19,
                 .correction2 = 0.0199};
  });
  b.expect_close(tolerance::kFloat, tolerance::kFloat);
  for (size_t i = 0; i < copies.size(); ++i) {
    const auto* master = lists[1][i].master.as<float>();
    int64_t wrong = 0;
    for (int64_t j = 0; j < lists[1][i].master.elements(); ++j) {
      wrong += copies[i][j] !=
               (b.compute() == DType::kBF16 ? bf16(master[j]).bits : fp16(master[j]).bits);
    }
    EXPECT_EQ(wrong, 0) << i;
  }
  Owned<double> sums({2});
  int64_t to = 0;
  b.run<SumSquares>(&Backend::sum_squares, [&](const auto& t) {
    ++to;
    return SumSquares{t("grad0"), sums.view().rows(to - 1, to)};
  });
  EXPECT_NEAR(sums[1] / sums[0], 1, 1e-12);
}

INSTANTIATE_TEST_SUITE_P(All, NormOps, testing::ValuesIn(op_cases()), op_case_name);

}  // namespace
}  // namespace rwkv
