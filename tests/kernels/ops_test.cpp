// Every op of every backend that runs here, float32 and bf16, against the reference in double on
// the same inputs (rounded to bf16 first where bf16 computes).
#include "tests/kernels/on_every_backend.h"
#include "tests/support/sanitized.h"

namespace rwkv {
namespace {

using namespace test;

class Ops : public OnEveryBackend {};

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

// c of forward is `squared` of backward, as in a block.
TEST_P(Ops, ProductsWithReluSquared) {
  constexpr int64_t kInner = 48;
  TwoBackends b = bench();
  b.input("x", {kRows, kInner});
  b.input("key", {kWidth, kInner});
  b.input("dout", {kRows, kInner});
  b.input("value", {kInner, kWidth});
  b.output("squared", kFlat);
  b.output("dhidden", kFlat);
  b.run<ReluSquaredProduct>(&Backend::relu_squared_product, [&](const auto& t) {
    return ReluSquaredProduct{{.a = t("x"), .b = t("key"), .c = t("squared"), .trans_b = true}};
  });
  b.run<ReluSquaredProduct>(&Backend::relu_squared_product, [&](const auto& t) {
    return ReluSquaredProduct{{.a = t("dout"), .b = t("value"), .c = t("dhidden")}, t("squared")};
  });
  b.expect_close(tolerance::kFloat, 2 * tolerance::kBf16Output);
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

// Three heads: they do not fill the warps that have two each.
constexpr int64_t kTimeMixHeads[] = {16, 32, 64, 128};

std::vector<std::pair<int64_t, bool>> time_mix_cases() {
  std::vector<std::pair<int64_t, bool>> cases;
  for (const int64_t head : kTimeMixHeads) cases.insert(cases.end(), {{head, false}, {head, true}});
  return cases;
}

TEST_P(Ops, TimeMixIn) {
  for (const auto& [head, first] : time_mix_cases()) {
    const int64_t width = 3 * head;
    const Shape flat{kRows, width};
    TwoBackends b = bench();
    for (const char* name :
         {"iclr", "gate", "key", "value", "v_first", "dw_raw", "dk", "dv", "da", "db"}) {
      b.input(name, flat);
    }
    for (const char* name : {"a0", "v0", "k_k", "k_a"}) b.acc_input(name, {width});
    for (const char* name : {"k", "v", "a", "b", "diclr", "dkey", "dvalue"}) {
      b.output(name, flat);
    }
    b.acc_output("dv_first", flat, 0.5);
    for (const char* name : {"dw0", "da0", "dk_k", "dk_a"}) b.acc_output(name, {width});
    if (!first) {
      b.output("dgate", flat);
      b.acc_output("dv0", {width});
    }
    b.run<TimeMixInForward>(&Backend::time_mix_in_forward, [&](const auto& t) {
      const auto later = [&](const char* name) { return first ? Tensor{} : t(name); };
      return TimeMixInForward{.iclr = t("iclr"),
                              .value_gate = later("gate"),
                              .key = t("key"),
                              .value = t("value"),
                              .v_first = later("v_first"),
                              .a0 = t("a0"),
                              .k_k = t("k_k"),
                              .k_a = t("k_a"),
                              .v0 = later("v0"),
                              .head_size = head,
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
                               .head_size = head,
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
  for (const int64_t head : kTimeMixHeads) {
    const int64_t width = 3 * head;
    const Shape flat{kRows, width};
    TwoBackends b = bench();
    for (const char* name : {"y", "r", "k", "v", "g", "dz"}) b.input(name, flat);
    for (const char* name : {"weight", "bias"}) b.acc_input(name, {width});
    b.acc_input("r_k", {width / head, head});
    for (const char* name : {"z", "dy", "dv", "dg", "z_again"}) b.output(name, flat);
    b.acc_output("dbonus", {flat[0], width / head});
    for (const char* name : {"dweight", "dbias"}) b.acc_output(name, {width});
    b.acc_output("dr_k", {width / head, head});
    b.run<TimeMixOutForward>(&Backend::time_mix_out_forward, [&](const auto& t) {
      return TimeMixOutForward{.y = t("y"),
                               .r = t("r"),
                               .k = t("k"),
                               .v = t("v"),
                               .g = t("g"),
                               .ln_weight = t("weight"),
                               .ln_bias = t("bias"),
                               .r_k = t("r_k"),
                               .head_size = head,
                               .eps = 64e-5,
                               .z = t("z")};
    });
    b.run<TimeMixOutBackward>(&Backend::time_mix_out_backward, [&](const auto& t) {
      return TimeMixOutBackward{.y = t("y"),
                                .r = t("r"),
                                .k = t("k"),
                                .v = t("v"),
                                .g = t("g"),
                                .ln_weight = t("weight"),
                                .ln_bias = t("bias"),
                                .r_k = t("r_k"),
                                .head_size = head,
                                .eps = 64e-5,
                                .dz = t("dz"),
                                .z = t("z_again"),
                                .dy = t("dy"),
                                .dv = t("dv"),
                                .dg = t("dg"),
                                .dbonus = t("dbonus"),
                                .dln_weight = t("dweight"),
                                .dln_bias = t("dbias"),
                                .dr_k = t("dr_k")};
    });
    b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
  }
}

TEST_P(Ops, CrossEntropy) {
  // Of the third size rows are held where a device has the memory, of the last in registers too.
  for (const int64_t vocab : {301, 200, 300, kSanitized ? 4200 : 57352}) {
    const int64_t rows = vocab > 1000 ? 20 : kRows;
    Owned<int32_t> targets({rows}), best({rows}), best_wide({rows});
    Owned<float> weight({rows});
    for (int64_t i = 0; i < rows; ++i) {
      targets[i] = static_cast<int32_t>(i * 37 % vocab);
      weight[i] = i % 5 == 0 ? 0.0f : 1.0f;
    }
    TwoBackends b = bench();
    b.acc_input("logits", {rows, vocab}, 3);
    b.acc_output("loss", {rows});
    b.output("dlogits", {rows, vocab});
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
}

TEST_P(Ops, Matmul) {
  const bool fibers = runs_on_fibers(*GetParam().ops);
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      for (const int64_t m : {1, 70, 600}) {
        constexpr int64_t kN = 48;
        const int64_t k = fibers ? 53 : 530;
        if (fibers && m == 600) continue;
        TwoBackends b = bench();
        b.input("a", trans_a ? Shape{k, m} : Shape{m, k});
        b.input("b", trans_b ? Shape{kN, k} : Shape{k, kN});
        for (const char* name : {"c", "sum"}) b.acc_output(name, {m, kN});
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
        b.run<Matmul>(&Backend::matmul, [&](const auto& t) {
          return Matmul{.a = t("a"),
                        .b = t("b"),
                        .c = t("sum"),
                        .trans_a = trans_a,
                        .trans_b = trans_b,
                        .beta = 1,
                        .add = t("c")};
        });
        b.expect_close(tolerance::kFloat, tolerance::kFloat);  // exact products, float32 sums
      }
    }
  }
}

TEST_P(Ops, Wkv7) {
  for (const int64_t n : {8, 16, 32, 40, 64, 128}) {
    if (runs_cuda_kernels(*GetParam().ops) && (n == 8 || n == 40)) continue;  // refused, see below
    const int64_t batch = 2, count = 37, heads = 3;
    const Shape tokens{batch, count, heads, n}, state{batch, heads, n, n};
    TwoBackends b = bench();
    // Keys of a head: unit vectors of few directions, so that they repeat.
    for (const char* name : {"r", "k", "v", "dy"}) b.input(name, tokens, 0.5);
    const double unit = 1 / std::sqrt(static_cast<double>(n));
    b.input("a", tokens, unit);
    b.input("b", tokens, unit * 0.5);
    b.input("w_raw", tokens);
    b.acc_input("w0", {heads, n});
    b.acc_input("r_k", {heads, n});
    b.acc_input("dbonus", {batch, count, heads});
    b.acc_input("s_in", state);
    b.acc_input("ds_out", state);
    for (const char* name : {"y", "dr", "dw_raw", "dk", "dv", "da", "db"}) b.output(name, tokens);
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
                                .w_raw = t("w_raw"),
                                .w0 = t("w0")},
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
                                 .w_raw = t("w_raw"),
                                 .w0 = t("w0")},
                          .s_saved = t("saved"),
                          .dy = t("dy"),
                          .ds_out = t("ds_out"),
                          .bonus = {t("dbonus"), t("r_k")},
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

INSTANTIATE_TEST_SUITE_P(All, Ops, testing::ValuesIn(op_cases()), op_case_name);

}  // namespace
}  // namespace rwkv
