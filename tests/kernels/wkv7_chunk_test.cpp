// The recurrence of heads of 64 in bf16, where the CUDA kernels work on chunks of tokens as matrix
// products, against the reference in double: lengths around chunks' edges, and the decays and keys
// that are hard on it.
#include <gtest/gtest.h>

#include "tests/kernels/tested_backends.h"
#include "tests/support/sanitized.h"
#include "tests/support/wkv7_chunk_run.h"

namespace rwkv {
namespace {

using namespace test;
using namespace test::chunks;

// 8 is within 3e-4 of the bound. From 17 on 1 - sigmoid is 0 in float, and with it dw_raw where it
// is computed so, as on the CPU; the true one is below 1e-7.
const std::vector<Mode> kModes = {{"random"},
                                  {"decay at the bound", Keys::kRandom, 8.0},
                                  {"decay near 1", Keys::kRandom, -8.0},
                                  {"repeated key", Keys::kRepeated, -8.0},
                                  {"repeated key, either sign", Keys::kFlipped, -8.0}};

class Wkv7Chunks : public testing::TestWithParam<const Backend*> {
 protected:
  static void expect_close(const Mode& mode, int64_t tokens, const Ends& ends, bool added) {
    SCOPED_TRACE(mode.name + ", " + std::to_string(tokens) + " tokens");
    const Numbers x = operands(mode, tokens);
    const Numbers want =
        Recurrence<double>(x, tokens).forward_and_backward(reference_backend(), ends, added);
    const Numbers got = Recurrence<bf16>(x, tokens).forward_and_backward(*GetParam(), ends, added);
    for (const auto& [name, values] : want) {
      EXPECT_LT(distance(got.at(name), values), limit(name, mode.keys, tokens)) << name;
    }
  }
};

TEST_P(Wkv7Chunks, LengthsAroundAChunk) {
  for (const int64_t tokens : {1, 15, 16, 17, 64, 100}) {
    if (kSanitized && tokens > 17) continue;
    for (const Ends& ends : {kAll, kNone}) expect_close(kModes[0], tokens, ends, false);
  }
}

TEST_P(Wkv7Chunks, HardDecaysAndKeys) {
  for (const Mode& mode : kModes) expect_close(mode, kSanitized ? 33 : 100, kAll, false);
}

TEST_P(Wkv7Chunks, EachEndMayBeAbsent) {
  for (int absent = 0; absent < 4; ++absent) {
    expect_close(kModes[2], 33, {absent != 0, absent != 1, absent != 2, absent != 3}, false);
  }
}

TEST_P(Wkv7Chunks, GradientsOfTheBonusAreKept) { expect_close(kModes[0], 40, kAll, true); }

TEST_P(Wkv7Chunks, AMapTakesTheStateOverAllTokens) {
  for (const int64_t tokens : {1, 40}) {
    const Numbers x = operands(kModes[2], tokens);
    const auto want = Recurrence<double>(x, tokens)
                          .forward_and_backward(reference_backend(), kAll, false)
                          .at("s_out");
    EXPECT_LT(distance(Recurrence<bf16>(x, tokens).mapped(*GetParam()), want),
              tolerance::kBf16Output);
  }
}

TEST_P(Wkv7Chunks, AMapTakesTheAdjointOverAllTokens) {
  for (const Mode& mode : kModes) {
    for (const int64_t tokens : {1, 15, 16, 40, 100}) {
      if (&mode != &kModes[0] && tokens != 40) continue;
      const Numbers x = operands(mode, tokens);
      const auto want = Recurrence<double>(x, tokens)
                            .forward_and_backward(reference_backend(), kAll, false)
                            .at("ds_in");
      EXPECT_LT(distance(Recurrence<bf16>(x, tokens).mapped_back(*GetParam()), want),
                tolerance::kBf16Gradient)
          << mode.name << " " << tokens;
    }
  }
}

TEST_P(Wkv7Chunks, TilesAreFoldedAtTheirEdges) {
  for (const int64_t tokens : {32, 40, 100}) {
    if (kSanitized && tokens != 40) continue;
    for (const Ends& ends : {kAll, kNone, Ends{true, false, true, false}}) {
      for (const Mode& mode : {kModes[0], kModes[2]}) {
        const Numbers x = operands(mode, tokens);
        const Numbers want =
            Recurrence<double>(x, tokens).forward_and_backward(reference_backend(), ends, false);
        const Numbers got = Recurrence<bf16>(x, tokens).tiled(*GetParam(), 32, ends);
        for (const auto& [name, values] : want) {
          EXPECT_LT(distance(got.at(name), values), limit(name, mode.keys, tokens))
              << name << " " << mode.name << " " << tokens;
        }
      }
    }
  }
}

// Many more pieces than the few that some lengths above are cut in.
TEST_P(Wkv7Chunks, LongSequences) { expect_close(kModes[2], 300, kAll, true); }

TEST_P(Wkv7Chunks, WithMapsTheStateIsFoldedOverTheOneTile) {
  constexpr int64_t kTokens = 20;
  const Numbers x = operands(kModes[0], kTokens);
  Recurrence<bf16> plain(x, kTokens), mapped(x, kTokens);
  const Numbers want = plain.forward_and_backward(*GetParam(), kAll, false);
  const Numbers got = mapped.with_maps(*GetParam());
  EXPECT_EQ(got.at("s_out"), got.at("folded"));
  EXPECT_EQ(got.at("ds_in"), got.at("dfolded"));
  EXPECT_GT(distance(got.at("s_out"), want.at("s_out")), 0.1);
  EXPECT_GT(distance(got.at("ds_in"), want.at("ds_in")), 0.1);
  for (const char* name : {"y", "dr", "dk", "dv", "da", "db", "dw_raw"}) {
    EXPECT_EQ(got.at(name), want.at(name)) << name;
  }
}

TEST_P(Wkv7Chunks, NoTileIsNoMap) {
  const Numbers x = operands(kModes[0], 20);
  for (const double value : Recurrence<bf16>(x, 20).map_of_nothing(*GetParam())) {
    ASSERT_EQ(value, 0);
  }
}

// What a test of closeness would miss must be far away.
TEST(Wkv7ChunksReference, EachOperandMatters) {
  constexpr int64_t kTokens = 40;
  const Numbers x = operands(kModes[0], kTokens);
  const Numbers want =
      Recurrence<double>(x, kTokens).forward_and_backward(reference_backend(), kAll, false);
  for (const char* name : {"r", "k", "v", "a", "b", "w_raw", "s_in"}) {
    Numbers other = x;
    for (double& value : other.at(name)) value *= 0.8;
    const Numbers got =
        Recurrence<double>(other, kTokens).forward_and_backward(reference_backend(), kAll, false);
    double largest = 0;
    for (const auto& [result, values] : want) {
      largest = std::max(largest,
                         distance(got.at(result), values) / limit(result, Keys::kRandom, kTokens));
    }
    EXPECT_GT(largest, 2) << name;
  }
}

std::vector<const Backend*> with_bf16() {
  std::vector<const Backend*> all;
  for (const Backend* ops : tested_backends()) {
    if (ops->bf16) all.push_back(ops);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, Wkv7Chunks, testing::ValuesIn(with_bf16()), backend_name);

}  // namespace
}  // namespace rwkv
