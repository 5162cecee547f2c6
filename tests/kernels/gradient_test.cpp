// Every op of the reference kernels: backward against complex step, every input, carried states and
// halo rows included.
#include <gtest/gtest.h>

#include "kernels/reference/cross_entropy.h"
#include "kernels/reference/elementwise.h"
#include "kernels/reference/embedding.h"
#include "kernels/reference/layer_norm.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/time_mix.h"
#include "kernels/reference/token_shift.h"
#include "kernels/reference/wkv7.h"
#include "tests/support/gradcheck.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;
namespace ref = reference;

void expect_right(const OpUnderTest& op,
                  const std::map<std::string, std::vector<double>>& given = {}) {
  std::string worst;
  EXPECT_LT(check_gradients(op, &worst, given), tolerance::kComplexStep) << worst;
}

// Adds up what a backward pass gives for one input from two calls: gradients start at zero.
TEST(ComplexStep, Matmul) {
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      const Shape a = trans_a ? Shape{4, 3} : Shape{3, 4}, b = trans_b ? Shape{5, 4} : Shape{4, 5};
      OpUnderTest op;
      op.inputs = {{"a", a}, {"b", b}};
      op.outputs = {{"c", {3, 5}}};
      op.forward = [=](Tensors& in, Tensors& out) {
        ref::matmul<Complex>({}, {.a = in["a"].view(),
                                  .b = in["b"].view(),
                                  .c = out["c"].view(),
                                  .trans_a = trans_a,
                                  .trans_b = trans_b});
      };
      op.backward = [=](Tensors& in, Tensors& up, Tensors& d) {
        const Tensor x = in["a"].view(), y = in["b"].view(), g = up["c"].view();
        if (trans_a) {  // a is (K, M): dA = op(b) g^T
          ref::matmul<Complex>(
              {}, {.a = y, .b = g, .c = d["a"].view(), .trans_a = trans_b, .trans_b = true});
        } else {
          ref::matmul<Complex>({}, {.a = g, .b = y, .c = d["a"].view(), .trans_b = !trans_b});
        }
        if (trans_b) {  // b is (N, K): dB = g^T op(a)
          ref::matmul<Complex>(
              {}, {.a = g, .b = x, .c = d["b"].view(), .trans_a = true, .trans_b = trans_a});
        } else {
          ref::matmul<Complex>({}, {.a = x, .b = g, .c = d["b"].view(), .trans_a = !trans_a});
        }
      };
      expect_right(op);
    }
  }
}

TEST(ComplexStep, Activations) {
  for (Activation kind : {Activation::kTanh, Activation::kSigmoid, Activation::kReluSquared}) {
    OpUnderTest op;
    op.inputs = {{"x", {3, 7}}};
    op.outputs = {{"y", {3, 7}}};
    op.forward = [=](Tensors& in, Tensors& out) {
      ref::activation_forward<Complex>({}, {kind, in["x"].view(), out["y"].view()});
    };
    op.backward = [=](Tensors& in, Tensors& up, Tensors& d) {
      Owned<Complex> x = in["x"];
      if (kind == Activation::kReluSquared) {  // its gradient is from its square
        ref::activation_forward<Complex>({}, {kind, in["x"].view(), x.view()});
      }
      ref::activation_backward<Complex>({}, {kind, x.view(), up["y"].view(), d["x"].view()});
    };
    expect_right(op);
  }
}

TEST(ComplexStep, Embedding) {
  Owned<int32_t> tokens({6});
  tokens.values() = {3, 0, 3, 1, 4, 3};
  OpUnderTest op;
  op.inputs = {{"table", {5, 3}}};
  op.outputs = {{"out", {6, 3}}};
  op.forward = [&](Tensors& in, Tensors& out) {
    ref::embedding_forward<Complex>({}, {in["table"].view(), tokens.view(), out["out"].view()});
  };
  op.backward = [&](Tensors&, Tensors& up, Tensors& d) {
    ref::embedding_backward<Complex>({}, {tokens.view(), up["out"].view(), d["table"].view()});
  };
  expect_right(op);
}

TEST(ComplexStep, LayerNorm) {
  for (const bool bypass : {false, true}) {
    OpUnderTest op;
    op.inputs = {{"x", {4, 6}}, {"weight", {6}}, {"bias", {6}}};
    op.outputs = {{"out", {4, 6}}};
    // With a bypass the output is norm(x) + x, so that the residual gradient is checked too.
    op.forward = [=](Tensors& in, Tensors& out) {
      Owned<Complex> mean({4}), rstd({4});
      ref::layer_norm_forward<Complex>({}, {in["x"].view(), in["weight"].view(), in["bias"].view(),
                                            1e-5, out["out"].view(), mean.view(), rstd.view()});
      for (int64_t i = 0; bypass && i < 24; ++i) out["out"][i] += in["x"][i];
    };
    op.backward = [=](Tensors& in, Tensors& up, Tensors& d) {
      Owned<Complex> mean({4}), rstd({4}), out({4, 6});
      ref::layer_norm_forward<Complex>({}, {in["x"].view(), in["weight"].view(), in["bias"].view(),
                                            1e-5, out.view(), mean.view(), rstd.view()});
      ref::layer_norm_backward<Complex>(
          {}, {in["x"].view(), in["weight"].view(), in["bias"].view(), mean.view(), rstd.view(),
               up["out"].view(), bypass ? ConstTensor(up["out"].view()) : ConstTensor{},
               d["x"].view(), d["weight"].view(), d["bias"].view()});
    };
    expect_right(op);
  }
}

// With the row that is handed on at the end, in the middle, and documents that start at the first
// token and inside.
TEST(ComplexStep, TokenShift) {
  Owned<int32_t> starts({2, 5});
  starts[3] = starts[5] = 1;
  for (const int64_t at : {4, 2}) {
    for (const int mixes : {1, 6}) {
      OpUnderTest op;
      op.inputs = {{"u", {2, 5, 3}}, {"halo", {2, 3}}};
      op.outputs = {{"handed", {2, 3}}};
      for (int m = 0; m < mixes; ++m) {
        op.inputs["mix" + std::to_string(m)] = {3};
        op.outputs["out" + std::to_string(m)] = {2, 5, 3};
      }
      op.forward = [&](Tensors& in, Tensors& out) {
        TokenShiftForward f{.u = in["u"].view(),
                            .halo = in["halo"].view(),
                            .mixes = mixes,
                            .mix = {},
                            .out = {},
                            .starts = starts.view()};
        for (size_t m = 0; m < static_cast<size_t>(mixes); ++m) {
          f.mix[m] = in["mix" + std::to_string(m)].view();
          f.out[m] = out["out" + std::to_string(m)].view();
        }
        ref::token_shift_forward<Complex>({}, f);
        ref::halo_forward<Complex>({}, {in["u"].view(), at, out["handed"].view()});
      };
      op.backward = [&](Tensors& in, Tensors& up, Tensors& d) {
        TokenShiftBackward b{.u = in["u"].view(),
                             .halo = in["halo"].view(),
                             .dhalo_out = up["handed"].view(),
                             .at = at,
                             .mixes = mixes,
                             .mix = {},
                             .dout = {},
                             .du = d["u"].view(),
                             .dmix = {},
                             .starts = starts.view()};
        for (size_t m = 0; m < static_cast<size_t>(mixes); ++m) {
          b.mix[m] = in["mix" + std::to_string(m)].view();
          b.dout[m] = up["out" + std::to_string(m)].view();
          b.dmix[m] = d["mix" + std::to_string(m)].view();
        }
        ref::token_shift_backward<Complex>({}, b);
        ref::halo_backward<Complex>({}, {mixes, b.mix, b.dout, starts.view(), d["halo"].view()});
      };
      expect_right(op);
    }
  }
}

TEST(ComplexStep, TimeMixIn) {
  for (const bool first : {false, true}) {
    OpUnderTest op;
    const Shape rows{3, 8};
    for (const char* name : {"iclr", "key", "value"}) op.inputs[name] = rows;
    for (const char* name : {"a0", "k_k", "k_a"}) op.inputs[name] = {8};
    if (!first) {
      op.inputs["gate"] = op.inputs["v_first"] = rows;
      op.inputs["v0"] = {8};
    }
    for (const char* name : {"k", "v", "a", "b"}) op.outputs[name] = rows;
    const auto optional = [=](Tensors& t, const char* name) {
      return first ? Tensor{} : t[name].view();
    };
    op.forward = [=](Tensors& in, Tensors& out) {
      ref::time_mix_in_forward<Complex>({}, {.iclr = in["iclr"].view(),
                                             .value_gate = optional(in, "gate"),
                                             .key = in["key"].view(),
                                             .value = in["value"].view(),
                                             .v_first = optional(in, "v_first"),
                                             .a0 = in["a0"].view(),
                                             .k_k = in["k_k"].view(),
                                             .k_a = in["k_a"].view(),
                                             .v0 = optional(in, "v0"),
                                             .head_size = 4,
                                             .k = out["k"].view(),
                                             .v = out["v"].view(),
                                             .a = out["a"].view(),
                                             .b = out["b"].view()});
    };
    op.backward = [=](Tensors& in, Tensors& up, Tensors& d) {
      Owned<Complex> dfirst(rows), dw_raw(rows), dw0({8});
      for (int64_t i = 0; i < 24; ++i) dw_raw[i] = static_cast<double>(i * i);
      ref::time_mix_in_backward<Complex>({},
                                         {.iclr = in["iclr"].view(),
                                          .value_gate = optional(in, "gate"),
                                          .key = in["key"].view(),
                                          .value = in["value"].view(),
                                          .v_first = optional(in, "v_first"),
                                          .a0 = in["a0"].view(),
                                          .k_k = in["k_k"].view(),
                                          .k_a = in["k_a"].view(),
                                          .v0 = optional(in, "v0"),
                                          .head_size = 4,
                                          .dw_raw = dw_raw.view(),
                                          .dk = up["k"].view(),
                                          .dv = up["v"].view(),
                                          .da = up["a"].view(),
                                          .db = up["b"].view(),
                                          .diclr = d["iclr"].view(),
                                          .dvalue_gate = optional(d, "gate"),
                                          .dkey = d["key"].view(),
                                          .dvalue = d["value"].view(),
                                          .dv_first = first ? dfirst.view() : d["v_first"].view(),
                                          .dw0 = dw0.view(),
                                          .da0 = d["a0"].view(),
                                          .dk_k = d["k_k"].view(),
                                          .dk_a = d["k_a"].view(),
                                          .dv0 = optional(d, "v0")});
      for (int64_t c = 0; c < 8; ++c) {
        EXPECT_EQ(dw0[c], dw_raw[c] + dw_raw[8 + c] + dw_raw[16 + c]);
      }
    };
    expect_right(op);
  }
}

// The first layer's dv_first is the gradient that the later layers gathered: it adds to dvalue.
TEST(ComplexStep, FirstLayerTakesTheGatheredGradientOfV) {
  const Shape rows{2, 4};
  Tensors t;
  for (const char* name : {"x", "dv", "gathered", "out", "scratch"}) t[name] = Owned<Complex>(rows);
  Owned<Complex> vec({4});
  for (int64_t i = 0; i < 8; ++i) {
    t["x"][i] = 0.5 + static_cast<double>(i);
    t["dv"][i] = static_cast<double>(i);
    t["gathered"][i] = 100.0 + static_cast<double>(i);
  }
  const Tensor x = t["x"].view(), zero = t["scratch"].view();
  Owned<Complex> sink(rows), vectors({4});
  ref::time_mix_in_backward<Complex>({}, {.iclr = x,
                                          .value_gate = {},
                                          .key = x,
                                          .value = x,
                                          .v_first = {},
                                          .a0 = vec.view(),
                                          .k_k = vec.view(),
                                          .k_a = vec.view(),
                                          .v0 = {},
                                          .head_size = 4,
                                          .dw_raw = zero,
                                          .dk = zero,
                                          .dv = t["dv"].view(),
                                          .da = zero,
                                          .db = zero,
                                          .diclr = sink.view(),
                                          .dvalue_gate = {},
                                          .dkey = sink.view(),
                                          .dvalue = t["out"].view(),
                                          .dv_first = t["gathered"].view(),
                                          .dw0 = vectors.view(),
                                          .da0 = vectors.view(),
                                          .dk_k = vectors.view(),
                                          .dk_a = vectors.view(),
                                          .dv0 = {}});
  for (int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(t["out"][i].real(), 100.0 + 2 * static_cast<double>(i));
  }
}

TEST(ComplexStep, TimeMixOut) {
  OpUnderTest op;
  const Shape rows{3, 8};
  for (const char* name : {"y", "r", "k", "v", "g"}) op.inputs[name] = rows;
  op.inputs["weight"] = op.inputs["bias"] = {8};
  op.inputs["r_k"] = {2, 4};
  op.outputs = {{"z", rows}};
  op.forward = [](Tensors& in, Tensors& out) {
    ref::time_mix_out_forward<Complex>({}, {.y = in["y"].view(),
                                            .r = in["r"].view(),
                                            .k = in["k"].view(),
                                            .v = in["v"].view(),
                                            .g = in["g"].view(),
                                            .ln_weight = in["weight"].view(),
                                            .ln_bias = in["bias"].view(),
                                            .r_k = in["r_k"].view(),
                                            .head_size = 4,
                                            .eps = 64e-5,
                                            .z = out["z"].view()});
  };
  op.backward = [=](Tensors& in, Tensors& up, Tensors& d) {
    Owned<Complex> dbonus({3, 2});
    ref::time_mix_out_backward<Complex>({}, {.y = in["y"].view(),
                                             .r = in["r"].view(),
                                             .k = in["k"].view(),
                                             .v = in["v"].view(),
                                             .g = in["g"].view(),
                                             .ln_weight = in["weight"].view(),
                                             .ln_bias = in["bias"].view(),
                                             .r_k = in["r_k"].view(),
                                             .head_size = 4,
                                             .eps = 64e-5,
                                             .dz = up["z"].view(),
                                             .dy = d["y"].view(),
                                             .dv = d["v"].view(),
                                             .dg = d["g"].view(),
                                             .dbonus = dbonus.view(),
                                             .dln_weight = d["weight"].view(),
                                             .dln_bias = d["bias"].view(),
                                             .dr_k = d["r_k"].view()});
    // What Wkv7Backward does with dbonus.
    for (int64_t i = 0; i < rows.elements(); ++i) {
      d["r"][i] = dbonus[i / 4] * in["r_k"][i % 8] * in["k"][i];
      d["k"][i] = dbonus[i / 4] * in["r_k"][i % 8] * in["r"][i];
    }
  };
  expect_right(op);
}

// 19 tokens: a chunk of saved states and a piece of one.
TEST(ComplexStep, Wkv7WithIncomingState) {
  constexpr int64_t kB = 2, kT = 19, kH = 2, kN = 4;
  const Shape tokens{kB, kT, kH, kN}, state{kB, kH, kN, kN};
  OpUnderTest op;
  for (const char* name : {"r", "w_raw", "k", "v", "a", "b"}) op.inputs[name] = tokens;
  op.inputs["s_in"] = state;
  op.inputs["w0"] = op.inputs["r_k"] = {kH, kN};
  const Shape bonus{kB, kT, kH};
  op.outputs = {{"y", tokens}, {"s_out", state}, {"bonus", bonus}};
  const Shape saved{kB, kH, wkv7_saved_states(kT), kN, wkv7_state_stride(kN)};
  const auto sequence = [](Tensors& in) {
    return Wkv7Sequence{.r = in["r"].view(),
                        .k = in["k"].view(),
                        .v = in["v"].view(),
                        .a = in["a"].view(),
                        .b = in["b"].view(),
                        .w_raw = in["w_raw"].view(),
                        .w0 = in["w0"].view()};
  };
  op.forward = [=](Tensors& in, Tensors& out) {
    ref::wkv7_forward<Complex>({}, {.in = sequence(in),
                                    .s_in = in["s_in"].view(),
                                    .y = out["y"].view(),
                                    .s_out = out["s_out"].view(),
                                    .s_saved = {}});
    for (int64_t i = 0; i < tokens.elements(); ++i) {
      out["bonus"][i / kN] += in["r_k"][i % (kH * kN)] * in["r"][i] * in["k"][i];
    }
  };
  op.backward = [=](Tensors& in, Tensors& up, Tensors& d) {
    Owned<Complex> y(tokens), s_out(state), states(saved);
    Owned<Complex> scratch({1, wkv7_backward_scratch(kN)});
    ref::wkv7_forward<Complex>({}, {.in = sequence(in),
                                    .s_in = in["s_in"].view(),
                                    .y = y.view(),
                                    .s_out = s_out.view(),
                                    .s_saved = states.view()});
    ref::wkv7_backward<Complex>({}, {.in = sequence(in),
                                     .s_saved = states.view(),
                                     .dy = up["y"].view(),
                                     .ds_out = up["s_out"].view(),
                                     .bonus = {up["bonus"].view(), in["r_k"].view()},
                                     .dr = d["r"].view(),
                                     .dk = d["k"].view(),
                                     .dv = d["v"].view(),
                                     .da = d["a"].view(),
                                     .db = d["b"].view(),
                                     .dw_raw = d["w_raw"].view(),
                                     .ds_in = d["s_in"].view(),
                                     .scratch = scratch.view()});
    // What TimeMixInBackward does with dw_raw.
    for (int64_t i = 0; i < kB * kT * kH * kN; ++i) {
      d["w0"][i % (kH * kN)] += d["w_raw"][i];
      d["r_k"][i % (kH * kN)] += up["bonus"][i / kN] * in["r"][i] * in["k"][i];
    }
  };
  const auto small = [&](const char* name) { return normals(name, kB * kT * kH * kN, 0.3); };
  expect_right(op, {{"a", small("a")}, {"b", small("b")}});
}

TEST(ComplexStep, CrossEntropyAndL2Wrap) {
  Owned<int32_t> targets({4}), best({4});
  targets.values() = {2, 0, 5, 5};
  Owned<float> weight({4});
  weight.values() = {1, 0, 0.5, 2};
  constexpr double kL2Wrap = 0.01;
  OpUnderTest op;
  op.inputs = {{"logits", {4, 6}}};
  op.outputs = {{"sum", {1}}};
  const auto run = [&](Tensors& in, Tensor loss, Tensor dlogits) {
    ref::cross_entropy<Complex>({}, {.logits = in["logits"].view(),
                                     .targets = targets.view(),
                                     .weight = weight.view(),
                                     .l2wrap = kL2Wrap,
                                     .loss = loss,
                                     .best = best.view(),
                                     .dlogits = dlogits});
  };
  // L2Wrap's gradient is that of l2wrap / 2 times the square of the largest logit.
  op.forward = [&](Tensors& in, Tensors& out) {
    Owned<Complex> loss({4});
    run(in, loss.view(), {});
    for (int64_t r = 0; r < 4; ++r) {
      const Complex top = in["logits"][r * 6 + best[r]];
      out["sum"][0] += static_cast<double>(weight[r]) * (loss[r] + 0.5 * kL2Wrap * top * top);
    }
  };
  op.backward = [&](Tensors& in, Tensors& up, Tensors& d) {
    Owned<Complex> loss({4});
    run(in, loss.view(), d["logits"].view());
    for (Complex& x : d["logits"].values()) x *= up["sum"][0];
  };
  expect_right(op);
}

// The check itself must be able to fail.
TEST(ComplexStep, FindsAWrongGradient) {
  double factor = 1 + 1e-8;
  OpUnderTest op;
  op.inputs = {{"x", {5}}};
  op.outputs = {{"y", {5}}};
  op.forward = [](Tensors& in, Tensors& out) {
    ref::activation_forward<Complex>({}, {Activation::kTanh, in["x"].view(), out["y"].view()});
  };
  op.backward = [&](Tensors& in, Tensors& up, Tensors& d) {
    ref::activation_backward<Complex>(
        {}, {Activation::kTanh, in["x"].view(), up["y"].view(), d["x"].view()});
    d["x"][3] *= factor;
  };
  std::string worst;
  EXPECT_GT(check_gradients(op, &worst), tolerance::kComplexStep);
  factor = NAN;
  EXPECT_TRUE(std::isnan(check_gradients(op, &worst)));
}

}  // namespace
}  // namespace rwkv
