// The recurrence alone against golden numbers, every gradient, the state's included.
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "tests/kernels/tested_backends.h"
#include "tests/support/golden.h"
#include "tests/support/tensors.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

// Runs forward and backward in T and compares with the file.
template <class T>
void expect_golden(const std::string& file, const Backend& ops, double limit) {
  const Golden golden(file);
  const Shape tokens = golden.shape("r"), state = golden.shape("S_in");
  const int64_t n = tokens[3];
  const auto load = [&](const char* name) {
    Owned<T> t(golden.shape(name));
    assign(t.view(), golden.read(name));
    return t;
  };
  Owned<T> r = load("r"), w_raw = load("w_raw"), k = load("k"), v = load("v"), a = load("a"),
           b = load("b"), s_in = load("S_in"), dy = load("dy"), ds_out = load("dS_out");
  Owned<T> y(tokens), s_out(state), dr(tokens), dw(tokens), dk(tokens), dv(tokens), da(tokens),
      db(tokens), ds_in(state), scratch({1, wkv7_backward_scratch(n)});
  Owned<T> saved({tokens[0], tokens[2], wkv7_saved_states(tokens[1]), n, wkv7_state_stride(n)});
  ops.wkv7_forward({}, {.in = {.r = r.view(),
                               .k = k.view(),
                               .v = v.view(),
                               .a = a.view(),
                               .b = b.view(),
                               .w_raw = w_raw.view()},
                        .s_in = s_in.view(),
                        .y = y.view(),
                        .s_out = s_out.view(),
                        .s_saved = saved.view()});
  ops.wkv7_backward({}, {.in = {.r = r.view(),
                                .k = k.view(),
                                .v = v.view(),
                                .a = a.view(),
                                .b = b.view(),
                                .w_raw = w_raw.view()},
                         .s_saved = saved.view(),
                         .dy = dy.view(),
                         .ds_out = ds_out.view(),
                         .dr = dr.view(),
                         .dk = dk.view(),
                         .dv = dv.view(),
                         .da = da.view(),
                         .db = db.view(),
                         .dw_raw = dw.view(),
                         .ds_in = ds_in.view(),
                         .scratch = scratch.view()});
  const std::vector<std::pair<const char*, Owned<T>*>> results = {
      {"y", &y},   {"S_out", &s_out}, {"dr", &dr}, {"dw_raw", &dw},  {"dk", &dk},
      {"dv", &dv}, {"da", &da},       {"db", &db}, {"dS_in", &ds_in}};
  for (const auto& [name, got] : results) {
    EXPECT_LT(distance(doubles(got->view()), golden.read(name)), limit) << file << " " << name;
  }
}

TEST(Wkv7Golden, ReferenceInDouble) {
  expect_golden<double>("wkv7_a.h5", reference_backend(), tolerance::kGolden);
  expect_golden<double>("wkv7_b.h5", reference_backend(), tolerance::kGolden);
}

class Wkv7GoldenOf : public PerBackend {};
INSTANTIATE_TEST_SUITE_P(All, Wkv7GoldenOf, testing::ValuesIn(tested_backends()), backend_name);

TEST_P(Wkv7GoldenOf, InFloat) {
  expect_golden<float>("wkv7_a.h5", *GetParam(), tolerance::kFloat);
  expect_golden<float>("wkv7_b.h5", *GetParam(), tolerance::kFloat);
}

}  // namespace
}  // namespace rwkv
