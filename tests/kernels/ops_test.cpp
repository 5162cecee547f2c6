// Every op of every backend that runs here, float32 and bf16, against the reference in double on
// the same inputs (rounded to bf16 first where bf16 computes).
#include <gtest/gtest.h>

#include <deque>

#include "tests/kernels/tested_backends.h"
#include "tests/kernels/two_backends.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

struct Case {
  const Backend* ops;
  DType compute;
  int threads;
};

class Ops : public testing::TestWithParam<Case> {
 protected:
  // The CUDA kernels' own code, here or on a GPU.
  static bool emulated() { return GetParam().ops->name.starts_with("cuda"); }
  TwoBackends bench() const {
    return TwoBackends(GetParam().compute, *GetParam().ops, GetParam().threads);
  }
};

constexpr int64_t kRows = 70, kWidth = 96, kHead = 32;  // rows: two blocks and a piece
const Shape kFlat{kRows, kWidth};

TEST_P(Ops, Activations) {
  for (Activation kind : {Activation::kTanh, Activation::kSigmoid, Activation::kReluSquared}) {
    TwoBackends b = bench();
    b.input("x", kFlat, 2);
    b.input("dy", kFlat);
    b.output("y", kFlat);
    b.output("dx", kFlat);
    b.run<ActivationForward>(&Backend::activation_forward, [&](const auto& t) {
      return ActivationForward{kind, t("x"), t("y")};
    });
    b.run<ActivationBackward>(&Backend::activation_backward, [&](const auto& t) {
      return ActivationBackward{kind, t("x"), t("dy"), t("dx")};
    });
    b.expect_close(1e-6, tolerance::kBf16Output);
  }
}

// Small arguments: relative accuracy, where 1 - 2 / (e^2x + 1) would lose all digits.
TEST_P(Ops, TanhOfSmallNumbers) {
  TwoBackends b = bench();
  b.input("x", {1000}, 1e-4);
  b.output("y", {1000});
  b.run<ActivationForward>(&Backend::activation_forward, [](const auto& t) {
    return ActivationForward{Activation::kTanh, t("x"), t("y")};
  });
  b.expect_close(1e-6, tolerance::kBf16Output);
}

TEST_P(Ops, Embedding) {
  Owned<int32_t> tokens({kRows});
  for (int64_t i = 0; i < kRows; ++i) tokens[i] = static_cast<int32_t>(i * i % 11);
  TwoBackends b = bench();
  b.acc_input("table", {11, kWidth});
  b.input("dout", kFlat);
  b.output("out", kFlat);
  b.acc_output("dtable", {11, kWidth});
  b.run<EmbeddingForward>(&Backend::embedding_forward, [&](const auto& t) {
    return EmbeddingForward{t("table"), tokens.view(), t("out")};
  });
  b.run<EmbeddingBackward>(&Backend::embedding_backward, [&](const auto& t) {
    return EmbeddingBackward{tokens.view(), t("dout"), t("dtable")};
  });
  b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
}

TEST_P(Ops, LayerNorm) {
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

TEST_P(Ops, TokenShift) {
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
TEST_P(Ops, NormAndShift) {
  const int64_t tokens = 77, at = 70;
  Owned<int32_t> starts({2, tokens});
  starts[0] = starts[17] = starts[32] = starts[tokens + 64] = 1;
  for (const int64_t width : {kWidth, int64_t{45}}) {
    for (const int mixes : {1, 6}) {
      const Shape sequence{2, tokens, width};
      TwoBackends b = bench();
      b.input("x", sequence, 3);
      for (const char* name : {"weight", "bias"}) b.acc_input(name, {width});
      b.input("residual", sequence);
      b.acc_input("dhalo_out", {2, width});
      add_shift(b, mixes, sequence);
      for (const char* name : {"u", "du", "dx"}) b.output(name, sequence);
      for (const char* name : {"mean", "rstd"}) b.acc_output(name, {2 * tokens});
      for (const char* name : {"dweight", "dbias"}) b.acc_output(name, {width}, 1);
      b.run<NormShiftForward>(&Backend::norm_shift_forward, [&](const auto& t) {
        NormShiftForward op{
            {t("x"), t("weight"), t("bias"), 1e-5, t("u"), t("mean"), t("rstd")},
            {.u = t("u"), .halo = {}, .mix = {}, .out = {}, .starts = starts.view()}};
        set_mixes(op.shift, mixes, t);
        return op;
      });
      b.run<NormShiftBackward>(&Backend::norm_shift_backward, [&](const auto& t) {
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
        set_mixes(op.shift, mixes, t);
        return op;
      });
      b.expect_close(tolerance::kFloat, tolerance::kBf16Gradient);
    }
  }
}

TEST_P(Ops, TimeMixIn) {
  for (const bool first : {false, true}) {
    TwoBackends b = bench();
    b.acc_input("decay", kFlat);
    for (const char* name : {"iclr", "gate", "key", "value", "v_first", "dk", "dv", "da", "db"}) {
      b.input(name, kFlat);
    }
    b.acc_input("dw_raw", kFlat);
    for (const char* name : {"w0", "a0", "v0", "k_k", "k_a"}) b.acc_input(name, {kWidth});
    for (const char* name : {"k", "v", "a", "b", "diclr", "dkey", "dvalue"}) b.output(name, kFlat);
    b.acc_output("w_raw", kFlat);
    b.acc_output("dv_first", kFlat, 0.5);
    for (const char* name : {"dw0", "da0", "dk_k", "dk_a"}) b.acc_output(name, {kWidth});
    if (!first) {
      b.output("dgate", kFlat);
      b.acc_output("dv0", {kWidth});
    }
    b.run<TimeMixInForward>(&Backend::time_mix_in_forward, [&](const auto& t) {
      const auto later = [&](const char* name) { return first ? Tensor{} : t(name); };
      return TimeMixInForward{.decay = t("decay"),
                              .iclr = t("iclr"),
                              .value_gate = later("gate"),
                              .key = t("key"),
                              .value = t("value"),
                              .v_first = later("v_first"),
                              .w0 = t("w0"),
                              .a0 = t("a0"),
                              .k_k = t("k_k"),
                              .k_a = t("k_a"),
                              .v0 = later("v0"),
                              .head_size = kHead,
                              .w_raw = t("w_raw"),
                              .k = t("k"),
                              .v = t("v"),
                              .a = t("a"),
                              .b = t("b")};
    });
    b.run<TimeMixInBackward>(&Backend::time_mix_in_backward, [&](const auto& t) {
      const auto later = [&](const char* name) { return first ? Tensor{} : t(name); };
      return TimeMixInBackward{.iclr = t("iclr"),
                               .value_gate = later("gate"),
                               .key = t("key"),
                               .value = t("value"),
                               .v_first = later("v_first"),
                               .a0 = t("a0"),
                               .k_k = t("k_k"),
                               .k_a = t("k_a"),
                               .v0 = later("v0"),
                               .head_size = kHead,
                               .dw_raw = t("dw_raw"),
                               .dk = t("dk"),
                               .dv = t("dv"),
                               .da = t("da"),
                               .db = t("db"),
                               .diclr = t("diclr"),
                               .dvalue_gate = later("dgate"),
                               .dkey = t("dkey"),
                               .dvalue = t("dvalue"),
                               .dv_first = t("dv_first"),
                               .dw0 = t("dw0"),
                               .da0 = t("da0"),
                               .dk_k = t("dk_k"),
                               .dk_a = t("dk_a"),
                               .dv0 = later("dv0")};
    });
    b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
  }
}

TEST_P(Ops, TimeMixOut) {
  TwoBackends b = bench();
  for (const char* name : {"y", "r", "k", "v", "g", "dz"}) b.input(name, kFlat);
  for (const char* name : {"weight", "bias"}) b.acc_input(name, {kWidth});
  b.acc_input("r_k", {kWidth / kHead, kHead});
  for (const char* name : {"z", "dy", "dr", "dk", "dv", "dg"}) b.output(name, kFlat);
  for (const char* name : {"dweight", "dbias"}) b.acc_output(name, {kWidth});
  b.acc_output("dr_k", {kWidth / kHead, kHead});
  b.run<TimeMixOutForward>(&Backend::time_mix_out_forward, [](const auto& t) {
    return TimeMixOutForward{.y = t("y"),
                             .r = t("r"),
                             .k = t("k"),
                             .v = t("v"),
                             .g = t("g"),
                             .ln_weight = t("weight"),
                             .ln_bias = t("bias"),
                             .r_k = t("r_k"),
                             .head_size = kHead,
                             .eps = 64e-5,
                             .z = t("z")};
  });
  b.run<TimeMixOutBackward>(&Backend::time_mix_out_backward, [](const auto& t) {
    return TimeMixOutBackward{.y = t("y"),
                              .r = t("r"),
                              .k = t("k"),
                              .v = t("v"),
                              .g = t("g"),
                              .ln_weight = t("weight"),
                              .ln_bias = t("bias"),
                              .r_k = t("r_k"),
                              .head_size = kHead,
                              .eps = 64e-5,
                              .dz = t("dz"),
                              .dy = t("dy"),
                              .dr = t("dr"),
                              .dk = t("dk"),
                              .dv = t("dv"),
                              .dg = t("dg"),
                              .dln_weight = t("dweight"),
                              .dln_bias = t("dbias"),
                              .dr_k = t("dr_k")};
  });
  b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
}

TEST_P(Ops, CrossEntropy) {
  constexpr int64_t kVocab = 301;
  Owned<int32_t> targets({kRows}), best({kRows}), best_wide({kRows});
  Owned<float> weight({kRows});
  for (int64_t i = 0; i < kRows; ++i) {
    targets[i] = static_cast<int32_t>(i * 37 % kVocab);
    weight[i] = i % 5 == 0 ? 0.0f : 1.0f;
  }
  TwoBackends b = bench();
  b.acc_input("logits", {kRows, kVocab}, 3);
  b.acc_output("loss", {kRows});
  b.output("dlogits", {kRows, kVocab});
  Owned<int32_t>* sink = &best_wide;  // the reference runs first
  b.run<CrossEntropy>(&Backend::cross_entropy, [&](const auto& t) {
    const CrossEntropy op{.logits = t("logits"),
                          .targets = targets.view(),
                          .weight = weight.view(),
                          .l2wrap = 0.01,
                          .loss = t("loss"),
                          .best = sink->view(),
                          .dlogits = t("dlogits")};
    sink = &best;
    return op;
  });
  b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
  EXPECT_EQ(best.values(), best_wide.values());
}

TEST_P(Ops, Matmul) {
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      for (const int64_t m : {1, 70, 600}) {
        constexpr int64_t kN = 48;
        const int64_t k = emulated() ? 53 : 530;
        if (emulated() && m == 600) continue;  // fibers are slow
        TwoBackends b = bench();
        b.input("a", trans_a ? Shape{k, m} : Shape{m, k});
        b.input("b", trans_b ? Shape{kN, k} : Shape{k, kN});
        b.acc_output("c", {m, kN});
        b.run<Matmul>(&Backend::matmul, [&](const auto& t) {
          return Matmul{
              .a = t("a"), .b = t("b"), .c = t("c"), .trans_a = trans_a, .trans_b = trans_b};
        });
        b.run<Matmul>(&Backend::matmul, [&](const auto& t) {
          return Matmul{.a = t("a"),
                        .b = t("b"),
                        .c = t("c"),
                        .trans_a = trans_a,
                        .trans_b = trans_b,
                        .beta = 1};
        });
        b.expect_close(tolerance::kFloat, tolerance::kFloat);  // exact products, float32 sums
      }
    }
  }
}

TEST_P(Ops, Wkv7) {
  for (const int64_t n : {8, 16, 32, 40, 64, 128}) {
    if (emulated() && (n == 8 || n == 40)) continue;  // refused, see below
    const int64_t batch = 2, count = 37, heads = 3;
    const Shape tokens{batch, count, heads, n}, state{batch, heads, n, n};
    TwoBackends b = bench();
    // Keys of a head: unit vectors of few directions, so that they repeat.
    for (const char* name : {"r", "k", "v", "dy"}) b.input(name, tokens, 0.5);
    const double unit = 1 / std::sqrt(static_cast<double>(n));
    b.input("a", tokens, unit);
    b.input("b", tokens, unit * 0.5);
    b.acc_input("w_raw", tokens);
    b.acc_input("s_in", state);
    b.acc_input("ds_out", state);
    for (const char* name : {"y", "dr", "dk", "dv", "da", "db"}) b.output(name, tokens);
    b.acc_output("dw_raw", tokens);
    b.acc_output("s_out", state);
    b.acc_output("ds_in", state);
    b.acc_input("saved", {batch, heads, wkv7_saved_states(count), n, wkv7_state_stride(n)}, 0);
    b.acc_input("scratch", {b.threads(), wkv7_backward_scratch(n)}, 0);
    b.run<Wkv7Forward>(&Backend::wkv7_forward, [](const auto& t) {
      return Wkv7Forward{.in = {.r = t("r"),
                                .k = t("k"),
                                .v = t("v"),
                                .a = t("a"),
                                .b = t("b"),
                                .w_raw = t("w_raw")},
                         .s_in = t("s_in"),
                         .y = t("y"),
                         .s_out = t("s_out"),
                         .s_saved = t("saved")};
    });
    b.run<Wkv7Backward>(&Backend::wkv7_backward, [](const auto& t) {
      return Wkv7Backward{.in = {.r = t("r"),
                                 .k = t("k"),
                                 .v = t("v"),
                                 .a = t("a"),
                                 .b = t("b"),
                                 .w_raw = t("w_raw")},
                          .s_saved = t("saved"),
                          .dy = t("dy"),
                          .ds_out = t("ds_out"),
                          .dr = t("dr"),
                          .dk = t("dk"),
                          .dv = t("dv"),
                          .da = t("da"),
                          .db = t("db"),
                          .dw_raw = t("dw_raw"),
                          .ds_in = t("ds_in"),
                          .scratch = t("scratch")};
    });
    b.expect_close(tolerance::kFloat, tolerance::kBf16Gradient);
  }
}

TEST_P(Ops, AdamWAndSums) {
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

TEST(DeviceOps, OtherHeadSizesAreRefusedByName) {
  const Shape state{1, 1, 40, 40};
  Owned<float> s(state);
  try {
    emulator_backend().wkv7_fold({}, {.m = {}, .add = {}, .from = {}, .out = s.view()});
    FAIL() << "a head of 40 was accepted";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("model.head_size 40"), std::string::npos);
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Backend* ops : tested_backends()) {
    all.push_back({ops, DType::kF32, 1});
    // A device has no threads of its own.
    if (ops != &emulator_backend()) all.push_back({ops, DType::kF32, 3});
    // Without hardware for it oneDNN may refuse bf16 products; the program falls back to float32.
    if (ops->bf16) all.push_back({ops, DType::kBF16, 2});
    if (ops->fp16) all.push_back({ops, DType::kF16, 1});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, Ops, testing::ValuesIn(cases()), [](const auto& chosen) {
  return test_name(*chosen.param.ops) + "_" + std::string(name_of(chosen.param.compute)) + "_" +
         std::to_string(chosen.param.threads);
});

}  // namespace
}  // namespace rwkv
