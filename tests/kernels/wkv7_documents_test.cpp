// The recurrence in chunks where documents start inside of them, and where the last tokens are an
// overlap: against the reference in double.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/kernels/tested_backends.h"
#include "tests/support/sanitized.h"
#include "tests/support/wkv7_chunk_run.h"

namespace rwkv {
namespace {

using namespace test;
using namespace test::chunks;

std::vector<int64_t> every_token() {
  std::vector<int64_t> all(100);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

struct DocumentsCase {
  std::string name;
  Cuts cuts;
};
// Those that a length does not have are left out.
const std::vector<DocumentsCase> kStarts = {
    {"the first token", {{{0}, {0}}}},
    {"inside of a chunk", {{{5, 20}, {9, 40, 66}}}},
    {"several in a chunk", {{{3, 4, 11, 14, 35}, {17, 18, 30, 33, 47}}}},
    {"at chunks' edges", {{{16, 32, 64}, {15, 31, 47, 63}}}},
    {"the last token", {{{-1}, {-1}}}},
    {"in the first row alone", {{{7, 24}, {}}}},
    {"in the second row alone", {{{}, {12, 50}}}},
    {"every token", {{every_token(), every_token()}}},
};
// Those whose states many chunks see, before starts and behind.
const std::vector<DocumentsCase> kFewStarts = {kStarts[1], kStarts[2], kStarts[3], kStarts[6]};
const Mode kRandom{"random"}, kSlow{"slow decay", Keys::kRandom, -8.0};

// A gradient from behind that is as large as that of the outputs: where it goes shows.
Numbers with_large_ends(const Mode& mode, int64_t tokens) {
  Numbers x = operands(mode, tokens);
  for (double& value : x.at("ds_out")) value *= 10;
  return x;
}

class Wkv7Documents : public testing::TestWithParam<const Backend*> {
 protected:
  static void expect_close(const Numbers& got, const Numbers& want, int64_t tokens) {
    for (const auto& [name, values] : want) {
      EXPECT_LT(distance(got.at(name), values), limit(name, Keys::kRandom, tokens)) << name;
    }
  }
  static void expect_close(const Mode& mode, int64_t tokens, const DocumentsCase& c,
                           const Ends& ends, bool added = false) {
    SCOPED_TRACE(c.name + ", " + std::to_string(tokens) + " tokens, " + mode.name);
    const Numbers x = with_large_ends(mode, tokens);
    expect_close(Recurrence<bf16>(x, tokens, c.cuts).forward_and_backward(*GetParam(), ends, added),
                 Recurrence<double>(x, tokens, c.cuts)
                     .forward_and_backward(reference_backend(), ends, added),
                 tokens);
  }
};

TEST_P(Wkv7Documents, StartAnywhere) {
  for (const DocumentsCase& c : kStarts) {
    for (const int64_t tokens : {1, 15, 16, 17, 33, 70}) {
      if (!kSanitized || tokens == 33) expect_close(kRandom, tokens, c, kAll);
    }
    expect_close(kSlow, 17, c, kNone);
  }
}

TEST_P(Wkv7Documents, GradientsOfTheBonusAreKept) {
  expect_close(kSlow, 70, kStarts[1], kAll, true);
}

// What a state and an adjoint become through the map of all tokens.
TEST_P(Wkv7Documents, MapsOfOneTile) {
  for (const DocumentsCase& c : kFewStarts) {
    SCOPED_TRACE(c.name);
    const Numbers x = with_large_ends(kSlow, 40);
    Numbers want = Recurrence<double>(x, 40, c.cuts).with_maps(reference_backend());
    expect_close(Recurrence<bf16>(x, 40, c.cuts).with_maps(*GetParam()), want, 40);
  }
}

TEST_P(Wkv7Documents, TilesAreFoldedAtTheirEdges) {
  for (const DocumentsCase& c : kFewStarts) {
    for (const Ends& ends : {kAll, kNone}) {
      if (!ends.s_in && c.name != kFewStarts[0].name) continue;
      SCOPED_TRACE(c.name);
      const Numbers x = with_large_ends(kSlow, 70);
      expect_close(
          Recurrence<bf16>(x, 70, c.cuts).tiled(*GetParam(), 32, ends),
          Recurrence<double>(x, 70, c.cuts).forward_and_backward(reference_backend(), ends, false),
          70);
    }
  }
}

// The kernels for starts, where there is none.
TEST_P(Wkv7Documents, NoStartLeavesTheBits) {
  const Numbers x = with_large_ends(kSlow, 70);
  Recurrence<bf16> without(x, 70), with(x, 70);
  with.give_starts();
  EXPECT_EQ(with.tiled(*GetParam(), 32, kAll), without.tiled(*GetParam(), 32, kAll));
  Recurrence<bf16> plain(x, 70), given(x, 70);
  given.give_starts();
  EXPECT_EQ(given.forward_and_backward(*GetParam(), kAll, true),
            plain.forward_and_backward(*GetParam(), kAll, true));
}

// What is handed on is before all tokens, at an edge of chunks or pieces, or inside of a chunk.
TEST_P(Wkv7Documents, AnOverlapIsRunAndNotHandedOn) {
  for (const int64_t overlap : {70, 54, 38, 6, 1}) {
    expect_close(kSlow, 70, {"overlap " + std::to_string(overlap), {{}, overlap}}, kAll);
  }
  expect_close(kSlow, 32, {"overlap 16", {{}, 16}}, kAll);
  expect_close(kRandom, 33, {"overlap 17", {{}, 17}}, kNone);
  expect_close(kSlow, 70, {"overlap 38, starts", {{{5, 37, 41}, {30, 66}}, 38}}, kAll);
}

TEST_P(Wkv7Documents, TheMapEndsBeforeAnOverlap) {
  for (const int64_t overlap : {24, 8, 5}) {
    for (const Cuts& cuts : {Cuts{{}, overlap}, Cuts{{{5, 36}, {18}}, overlap}}) {
      SCOPED_TRACE(overlap);
      const Numbers x = with_large_ends(kSlow, 40);
      expect_close(Recurrence<bf16>(x, 40, cuts).with_maps(*GetParam()),
                   Recurrence<double>(x, 40, cuts).with_maps(reference_backend()), 40);
    }
  }
}

// What a test of closeness would miss must be far away: each start and the overlap matter.
TEST(Wkv7DocumentsReference, EachCutMatters) {
  const auto run = [](const Cuts& cuts) {
    return Recurrence<double>(with_large_ends(kSlow, 70), 70, cuts)
        .forward_and_backward(reference_backend(), kAll, false);
  };
  const Cuts all{{{5, 37}, {18, 66}}, 38};
  const Numbers want = run(all);
  for (int left_out = 0; left_out < 5; ++left_out) {
    Cuts cuts = all;
    if (left_out == 4) cuts.overlap = 0;
    if (left_out < 4) {
      auto& row = cuts.starts[left_out / 2];
      row.erase(row.begin() + left_out % 2);
    }
    const Numbers got = run(cuts);
    double largest = 0;
    for (const auto& [name, values] : want) {
      largest = std::max(largest, distance(got.at(name), values) / limit(name, Keys::kRandom, 70));
    }
    EXPECT_GT(largest, 2) << left_out;
  }
}

// Those that have kernels in chunks; the others' are the same with starts and without.
std::vector<const Backend*> in_chunks() {
  std::vector<const Backend*> all;
  for (const Backend* ops : tested_backends()) {
    if (ops->saves_bf16_states != nullptr && ops->bf16) all.push_back(ops);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, Wkv7Documents, testing::ValuesIn(in_chunks()),
                         [](const auto& chosen) { return test_name(*chosen.param); });

}  // namespace
}  // namespace rwkv
