// What runs on the GPU is in the other files, as one more of the backends they test; here it is
// said when there is none.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>

#include "kernels/cuda_library.h"
#include "tests/kernels/two_backends.h"
#include "tests/support/gpu/gpu_backend.h"
#include "tests/support/tolerance.h"

namespace rwkv::test {
namespace {

TEST(Gpu, IsHere) {
  const Backend* gpu = gpu_backend();
  if (gpu == nullptr) GTEST_SKIP() << why_no_gpu() << ": no op was run on a GPU";
  EXPECT_EQ(gpu->name, "cuda");
}

// Both ways to make a product with relu squared behind it, whichever would be taken.
TEST(Gpu, ProductsWithReluSquaredInOneKernelAndInTwo) {
  const Backend* gpu = gpu_backend();
  if (gpu == nullptr) GTEST_SKIP() << why_no_gpu();
  const std::string written = gpu->choices->write(), id = written.substr(0, written.find('\n'));
  const bool fuses = id.find("CUTLASS") != std::string::npos &&
                     cuda_library().device.find("sm_90") != std::string::npos;
  for (const auto& [rows, columns, sum] :
       {std::array<int64_t, 3>{70, 96, 48}, {200, 328, 136}, {1024, 3072, 768}}) {
    for (const char* how : {"apart", "fused"}) {
      if (how == std::string_view("fused") && !fuses) continue;
      const std::string shape = fmt::format("\nrelu_squared {} {} {} ", rows, columns, sum);
      ASSERT_EQ(
          gpu->choices->read(id + shape + "forward " + how + shape + "backward " + how + "\n"), "");
      TwoBackends b(DType::kBF16, *gpu, 1);
      b.input("x", {rows, sum});
      b.input("key", {columns, sum}, 0.1);
      b.input("dout", {rows, sum});
      b.input("value", {sum, columns}, 0.1);
      b.output("squared", {rows, columns});
      b.output("dhidden", {rows, columns});
      b.run<ReluSquaredProduct>(&Backend::relu_squared_product, [&](const auto& t) {
        return ReluSquaredProduct{{.a = t("x"), .b = t("key"), .c = t("squared"), .trans_b = true}};
      });
      b.run<ReluSquaredProduct>(&Backend::relu_squared_product, [&](const auto& t) {
        return ReluSquaredProduct{{.a = t("dout"), .b = t("value"), .c = t("dhidden")},
                                  t("squared")};
      });
      b.expect_close(tolerance::kFloat, 2 * tolerance::kBf16Output);
    }
  }
  if (!fuses) GTEST_SKIP() << "in two alone: " << id << " has no other for this GPU";
}

}  // namespace
}  // namespace rwkv::test
