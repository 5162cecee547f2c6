// Maps of tiles and folds over them: the recurrence in pieces is the recurrence in one, with the
// same bits where all of it is folded, and its gradient is right.
#include <gtest/gtest.h>

#include "tests/kernels/tested_backends.h"
#include "tests/support/tolerance.h"
#include "tests/support/wkv7_run.h"

namespace rwkv {
namespace {

using namespace test;

// Starts beside the edges of tiles of 32, in the middle of one, and two in one.
constexpr int64_t kTokens = 150, kTile = 32;
const std::vector<int64_t> kDocumentStarts = {31, 70, 75, 96, 129};

void expect_close(const Wkv7Results& got, const Wkv7Results& want, double limit,
                  const std::string& what) {
  for (const auto& [name, values] : want) {
    EXPECT_LT(distance(got.at(name), values), limit) << what << " " << name;
  }
}

TEST(Wkv7Maps, FoldedTilesAreTheRecurrence) {
  for (const std::vector<int64_t>& starts : {std::vector<int64_t>{}, kDocumentStarts}) {
    const Wkv7Case<double> run({2, kTokens, 2, 8}, starts);
    const auto plain = run.whole(reference_backend(), 0);
    for (const int64_t tile : {1, 20, 32, 75, 149, 150, 200}) {
      expect_close(run.whole(reference_backend(), tile), plain, 1e-12, std::to_string(tile));
    }
  }
}

TEST(Wkv7Maps, DocumentsAreSequencesOfTheirOwn) {
  const Wkv7Case<double> run({1, kTokens, 2, 8}, {70});
  const auto got = run.whole(reference_backend(), 0);
  const auto head = run.piece(reference_backend(), 0, 70, run.s_in(), {});
  const auto tail = run.piece(reference_backend(), 70, kTokens, {}, run.ds_out());
  for (const char* name : {"y", "dr", "dw_raw", "dk", "dv", "da", "db"}) {
    std::vector<double> want = head.at(name);
    want.insert(want.end(), tail.at(name).begin(), tail.at(name).end());
    EXPECT_LT(distance(got.at(name), want), 1e-13) << name;
  }
  EXPECT_EQ(got.at("s_out"), tail.at("s_out"));
  EXPECT_EQ(got.at("ds_in"), head.at("ds_in"));
}

class Wkv7MapsOf : public PerBackend {};
INSTANTIATE_TEST_SUITE_P(All, Wkv7MapsOf, testing::ValuesIn(tested_backends()), backend_name);

TEST_P(Wkv7MapsOf, AgreesWithTheReference) {
  const Backend& ops = *GetParam();
  for (const int64_t n : {8, 16, 32, 40, 64, 128}) {
    if (runs_cuda_kernels(ops) && (n == 8 || n == 40)) continue;  // refused
    const Wkv7Case<float> run({2, 70, 2, n}, {31, 32, 65});
    const auto want = Wkv7Case<double>(run).whole(reference_backend(), 0);
    for (const int64_t tile : {0, 32}) {
      expect_close(run.whole(ops, tile), want, tolerance::kFloat,
                   "head " + std::to_string(n) + " tile " + std::to_string(tile));
    }
  }
}

// What sequence parallelism stands on: pieces that end at tiles' edges, joined by folds over all
// maps before and behind them, give the bits of the whole.
template <class T>
void expect_pieces_equal(const Backend& ops, const std::vector<int64_t>& starts,
                         const std::vector<int64_t>& edges) {
  const Wkv7Case<T> run({1, kTokens, 3, 64}, starts);
  const auto whole = run.whole(ops, kTile);
  const auto pieces = run.in_pieces(ops, kTile, edges);
  for (const auto& [name, values] : whole) {
    EXPECT_EQ(pieces.at(name), values) << name;
  }
}

TEST_P(Wkv7MapsOf, PiecesHaveTheBitsOfTheWhole) {
  for (const std::vector<int64_t>& starts : {std::vector<int64_t>{}, kDocumentStarts}) {
    expect_pieces_equal<float>(*GetParam(), starts, {64});
    expect_pieces_equal<float>(*GetParam(), starts, {32, 64, 96, 128});
    expect_pieces_equal<bf16>(*GetParam(), starts, {32, 96});
  }
}

// A first tile from zero and a last one with nothing behind it are not folded; that must not show.
TEST_P(Wkv7MapsOf, WhatStartsAndEndsAtZeroHasTheBitsOfAFold) {
  Wkv7Case<float> run({2, kTokens, 2, 64}, {});
  run.set_zero_boundaries();
  const auto folded = run.whole(*GetParam(), kTile);
  const auto skipped = run.whole(*GetParam(), kTile, Wkv7Ends::kAbsent);
  for (const auto& [name, values] : skipped) {
    if (name == "s_out" || name == "ds_in") continue;
    EXPECT_EQ(folded.at(name), values) << name;
  }
}

// A fold at a wrong place must show.
TEST(Wkv7Maps, AMapTooFewIsNoticed) {
  const Wkv7Case<double> run({1, kTokens, 2, 8}, {});
  const auto whole = run.whole(reference_backend(), kTile);
  const auto wrong = run.in_pieces(reference_backend(), kTile, {64}, 1);
  EXPECT_GT(distance(wrong.at("y"), whole.at("y")), 1e-3);
  EXPECT_GT(distance(wrong.at("dk"), whole.at("dk")), 1e-3);
}

}  // namespace
}  // namespace rwkv
