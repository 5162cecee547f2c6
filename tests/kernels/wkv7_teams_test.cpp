// The recurrence's backward pass in chunks, where shared memory has room for warps of their own for
// the gradients, and where it has not: the same bits, in whatever order threads come.
#include <gtest/gtest.h>

#include "tests/support/emulator/emulator_backend.h"
#include "tests/support/sanitized.h"
#include "tests/support/wkv7_chunk_run.h"

namespace rwkv {
namespace {

using namespace test;
using namespace test::chunks;

constexpr int64_t kMuch = int64_t{227} << 10, kLittle = int64_t{99} << 10;  // of sm_90; of sm_86
constexpr int64_t kFew = 1, kMany = 16;  // so many that a head is cut in pieces

void expect_same_bits(const Mode& mode, int64_t tokens, const Cuts& cuts, int64_t tile,
                      int64_t multiprocessors = kFew) {
  SCOPED_TRACE(mode.name + ", " + std::to_string(tokens) + " tokens");
  const Numbers x = operands(mode, tokens);
  const auto on = [&](int64_t shared_bytes, uint64_t seed) {
    const EmulatedDevice device(multiprocessors, shared_bytes, seed);
    Recurrence<bf16> run(x, tokens, cuts);
    return tile == 0 ? run.forward_and_backward(emulator_backend(), kAll, true)
                     : run.tiled(emulator_backend(), tile, kAll);
  };
  const Numbers want = on(kLittle, 1);
  for (uint64_t seed = 1; seed <= (kSanitized ? 1 : 3); ++seed) {
    const Numbers got = on(kMuch, seed);
    for (const auto& [name, values] : want) EXPECT_EQ(got.at(name), values) << name << " " << seed;
  }
}

TEST(Wkv7Teams, LengthsAroundChunks) {
  for (const int64_t tokens : {1, 16, 17, 33, 100}) {
    expect_same_bits({"random"}, tokens, {}, 0);
  }
  expect_same_bits({"random"}, 100, {}, 0, kMany);
}

TEST(Wkv7Teams, HardDecaysAndKeys) {
  expect_same_bits({"decay at the bound", Keys::kRandom, 8.0}, 50, {}, 0);
  expect_same_bits({"repeated key", Keys::kRepeated, -8.0}, 50, {}, 0);
}

TEST(Wkv7Teams, DocumentsAndOverlap) {
  Cuts cuts{{{3, 20, 32}, {0, 47}}};
  expect_same_bits({"random"}, 60, cuts, 0);
  cuts.overlap = 12;
  expect_same_bits({"random"}, 60, cuts, 0);
}

TEST(Wkv7Teams, TilesAreFolded) { expect_same_bits({"random"}, 80, {}, 32); }

}  // namespace
}  // namespace rwkv
