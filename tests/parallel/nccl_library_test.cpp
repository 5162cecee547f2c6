// What of NCCL can be seen without a GPU.
#include "parallel/nccl_library.h"

#include <gtest/gtest.h>

namespace rwkv {
namespace {

TEST(NcclLibrary, IsThereOrSaysWhyNot) {
  const NcclLibrary& library = nccl_library();
  EXPECT_EQ(library.make == nullptr, !library.why.empty());
  EXPECT_EQ(library.make == nullptr, library.version.empty());
  EXPECT_EQ(&library, &nccl_library());
}

// Through the library's door and back, an exception included.
TEST(NcclLibrary, RefusesADeviceThatIsNotThere) {
  const auto self = make_self();
  try {
    make_nccl(*self, {.device = 1000});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    const std::string what = error.what();
    const std::string words = nccl_library().make == nullptr ? "no NCCL: " : "cudaSetDevice: ";
    EXPECT_NE(what.find(words), std::string::npos) << what;
  }
}

}  // namespace
}  // namespace rwkv
