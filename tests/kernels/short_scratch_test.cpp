// Backward kernels that sum over tokens, on a stream with less scratch than they would take at
// once: they go through the rows in parts, with the same results.
#include <gtest/gtest.h>

#include <map>

#include "tests/support/emulator/emulator_backend.h"
#include "tests/support/tensors.h"

namespace rwkv {
namespace {

using namespace test;

constexpr int64_t kBatch = 2, kTokens = 75, kWidth = 64, kHead = 32, kRows = kBatch * kTokens;

using Results = std::map<std::string, std::vector<double>>;

// Tensors by name, made when they are first asked for: operands of random numbers, results of
// zeros.
class Tensors {
 public:
  Tensor operand(const std::string& name, const Shape& shape) {
    Owned<float>& t = operands_[name] = Owned<float>(shape);
    assign(t.view(), normals(name, t.size()));
    return t.view();
  }
  Tensor result(const std::string& name, const Shape& shape) {
    Owned<float>& t = results_[name] = Owned<float>(shape);
    return t.view();
  }
  // Of a pass's type.
  template <class T>
  Tensor flow(const std::string& name, const Shape& shape) {
    if constexpr (std::is_same_v<T, float>) {
      return operand(name, shape);
    } else {
      Owned<T>& t = halves_[name] = Owned<T>(shape);
      assign(t.view(), normals(name, t.size()));
      return t.view();
    }
  }
  // An operand that an op overwrites.
  template <class T>
  Tensor in_place(const std::string& name, const Shape& shape) {
    const Tensor t = flow<T>(name, shape);
    in_place_[name] = t;
    return t;
  }
  Results results() {
    Results all;
    for (auto& [name, t] : results_) all[name] = doubles(t.view());
    for (auto& [name, t] : in_place_) all[name] = doubles(t);
    return all;
  }

 private:
  std::map<std::string, Owned<float>> operands_, results_;
  std::map<std::string, Owned<bf16>> halves_;
  std::map<std::string, Tensor> in_place_;
};

// The gradient of the norm's output has no meaning where a kernel has no need to write it.
template <class T, int64_t width>
Results norm_and_six_mixes(const Leaves& leaves) {
  Tensors t;
  const Shape rows{kBatch, kTokens, width}, row{width}, halo{kBatch, width}, scalars{kRows};
  const Tensor du = t.flow<T>("du", rows), dx = t.in_place<T>("residual", rows);
  Owned<int32_t> starts({kBatch, kTokens});
  starts[40] = starts[kTokens + 32] = 1;
  NormShiftBackward op{{t.flow<T>("x", rows), t.operand("weight", row), t.operand("bias", row),
                        t.operand("mean", scalars), t.operand("rstd", scalars), du, dx, dx,
                        t.result("dweight", row), t.result("dbias", row), leaves},
                       {.u = t.flow<T>("u", rows),
                        .halo = t.operand("halo", halo),
                        .dhalo_out = t.operand("dhalo_out", halo),
                        .at = 70,
                        .mixes = kMaxMixes,
                        .mix = {},
                        .dout = {},
                        .du = du,
                        .dmix = {},
                        .starts = starts.view(),
                        .leaves = leaves}};
  for (size_t m = 0; m < kMaxMixes; ++m) {
    const std::string i = std::to_string(m);
    op.shift.mix[m] = t.operand("mix" + i, row);
    op.shift.dout[m] = t.flow<T>("dout" + i, rows);
    op.shift.dmix[m] = t.result("dmix" + i, row);
  }
  emulator_backend().norm_shift_backward({}, op);
  return t.results();
}

Results before_the_recurrence(const Leaves& leaves) {
  Tensors t;
  const Shape rows{kRows, kWidth}, row{kWidth};
  emulator_backend().time_mix_in_backward({}, {.iclr = t.operand("iclr", rows),
                                               .value_gate = t.operand("gate", rows),
                                               .key = t.operand("key", rows),
                                               .value = t.operand("value", rows),
                                               .v_first = t.operand("v_first", rows),
                                               .a0 = t.operand("a0", row),
                                               .k_k = t.operand("k_k", row),
                                               .k_a = t.operand("k_a", row),
                                               .v0 = t.operand("v0", row),
                                               .head_size = kHead,
                                               .dw_raw = t.operand("dw_raw", rows),
                                               .dk = t.operand("dk", rows),
                                               .dv = t.operand("dv", rows),
                                               .da = t.operand("da", rows),
                                               .db = t.operand("db", rows),
                                               .diclr = t.result("diclr", rows),
                                               .dvalue_gate = t.result("dgate", rows),
                                               .dkey = t.result("dkey", rows),
                                               .dvalue = t.result("dvalue", rows),
                                               .dv_first = t.result("dv_first", rows),
                                               .dw0 = t.result("dw0", row),
                                               .da0 = t.result("da0", row),
                                               .dk_k = t.result("dk_k", row),
                                               .dk_a = t.result("dk_a", row),
                                               .dv0 = t.result("dv0", row),
                                               .leaves = leaves});
  return t.results();
}

Results behind_the_recurrence(const Leaves& leaves) {
  Tensors t;
  const Shape rows{kRows, kWidth}, row{kWidth}, heads{kWidth / kHead, kHead};
  emulator_backend().time_mix_out_backward({},
                                           {.y = t.operand("y", rows),
                                            .r = t.operand("r", rows),
                                            .k = t.operand("k", rows),
                                            .v = t.operand("v", rows),
                                            .g = t.operand("g", rows),
                                            .ln_weight = t.operand("weight", row),
                                            .ln_bias = t.operand("bias", row),
                                            .r_k = t.operand("r_k", heads),
                                            .head_size = kHead,
                                            .dz = t.operand("dz", rows),
                                            .z = t.result("z", rows),
                                            .dy = t.result("dy", rows),
                                            .dv = t.result("dv", rows),
                                            .dg = t.result("dg", rows),
                                            .dbonus = t.result("dbonus", {kRows, kWidth / kHead}),
                                            .dln_weight = t.result("dweight", row),
                                            .dln_bias = t.result("dbias", row),
                                            .dr_k = t.result("dr_k", heads),
                                            .leaves = leaves});
  return t.results();
}

// `room`: for a leaf of two slabs of 32 rows, and not for two such leaves.
struct ShortCase {
  Results (*run)(const Leaves&);
  int64_t room;
};

class ShortScratch : public testing::TestWithParam<ShortCase> {
 protected:
  static Results run(const Leaves& leaves) { return GetParam().run(leaves); }
  static Results run_short(const Leaves& leaves) {
    const EmulatedDevice device(16, int64_t{227} << 10, 1, GetParam().room);
    return GetParam().run(leaves);
  }
};

// A leaf's partial is the same, and partials are added in the same order.
TEST_P(ShortScratch, LeavesKeepTheirBits) {
  for (const int64_t leaf : {32, 40}) {
    const Leaves leaves{kTokens, leaf, 0};
    EXPECT_EQ(run_short(leaves), run(leaves)) << leaf;
  }
}

TEST_P(ShortScratch, SumsOfAllRowsAreClose) {
  const Results want = run({});
  for (const auto& [name, values] : run_short({})) {
    EXPECT_LT(distance(values, want.at(name)), 1e-6) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, ShortScratch,
                         testing::Values(ShortCase{norm_and_six_mixes<float, kWidth>, 12 << 10},
                                         ShortCase{norm_and_six_mixes<bf16, 148>, 20 << 10},
                                         ShortCase{before_the_recurrence, 3 << 10},
                                         ShortCase{behind_the_recurrence, 2 << 10}));

// One that has no room for a single leaf says what it wants.
TEST(NoScratch, IsSaid) {
  const EmulatedDevice device(16, int64_t{227} << 10, 1, 100);
  EXPECT_THROW((norm_and_six_mixes<float, kWidth>({})), Error);
}

}  // namespace
}  // namespace rwkv
