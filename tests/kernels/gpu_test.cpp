// What runs on the GPU is in the other files, as one more of the backends they test; here it is
// said when there is none.
#include <gtest/gtest.h>

#include "tests/support/gpu/gpu_backend.h"

namespace rwkv::test {
namespace {

TEST(Gpu, IsHere) {
  const Backend* gpu = gpu_backend();
  if (gpu == nullptr) GTEST_SKIP() << why_no_gpu() << ": no op was run on a GPU";
  EXPECT_EQ(gpu->name, "cuda");
}

}  // namespace
}  // namespace rwkv::test
