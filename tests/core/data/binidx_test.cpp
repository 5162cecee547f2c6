#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "core/data/binidx_index.h"
#include "core/data/source.h"
#include "core/data/token_stream.h"
#include "tests/core/data/data_test_support.h"
#include "tests/support/binidx_fields.h"

namespace rwkv::testing {
namespace {

using test::as_bin;
using test::IndexFields;

// Three sequences of u16, one of them empty: 12 tokens.
IndexFields small_index() { return {8, 2, {5, 0, 7}}; }
constexpr int64_t kSmallBin = 24;

BinidxIndex parse(const std::string& idx, int64_t bin_bytes) {
  // A copy of the exact length: a sanitizer sees reads beyond it.
  const std::vector<char> exact(idx.begin(), idx.end());
  return parse_binidx_index(std::as_bytes(std::span(exact)), bin_bytes, "x.idx");
}

Recipe binidx_recipe(const std::string& prefix, int64_t context) {
  Recipe recipe;
  recipe.data.source = "binidx";
  recipe.data.path = prefix;
  recipe.train.context = context;
  recipe.train.batch = 1;
  return recipe;
}

TEST(BinidxIndex, AWholeIndexIsRead) {
  const auto index = parse(small_index().bytes(), kSmallBin);
  EXPECT_EQ(index.type, BinidxType::kU16);
  EXPECT_EQ(index.sequences, 3);
  EXPECT_EQ(index.tokens, 12);
  EXPECT_EQ(small_index().bytes().size(), 34u + 12 * 3 + 8 * 4);
}

TEST(BinidxIndex, DocumentsMaySpanSequences) {
  auto fields = small_index();
  fields.documents = {0, 2, 2, 3};
  EXPECT_NO_THROW(parse(fields.bytes(), kSmallBin));
  fields.documents = {0, 3};
  fields.entries = 2;
  EXPECT_NO_THROW(parse(fields.bytes(), kSmallBin));
}

TEST(BinidxIndex, AnyOtherLengthIsRefused) {
  const std::string whole = small_index().bytes();
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THROW(parse(whole.substr(0, length), kSmallBin), InputError) << length << " bytes";
  }
  EXPECT_THROW(parse(whole + '\0', kSmallBin), InputError);
  EXPECT_THROW(parse(whole + std::string(12, '\0'), kSmallBin), InputError);
}

struct BentIndex {
  const char* name;
  std::function<void(IndexFields&)> bend;
  std::vector<std::string> words;
};

TEST(BinidxIndex, EveryBentFieldIsRefusedByName) {
  constexpr auto kHuge = int64_t{1} << 62;
  const std::vector<BentIndex> cases = {
      {"magic", [](auto& f) { f.magic[8] = 1; }, {"MMIDIDX"}},
      {"version 0", [](auto& f) { f.version = 0; }, {"version 0"}},
      {"version 2", [](auto& f) { f.version = 2; }, {"version 2"}},
      {"type 0", [](auto& f) { f.type = 0; }, {"type 0"}},
      {"float", [](auto& f) { f.type = 6; }, {"type 6"}},
      {"double", [](auto& f) { f.type = 7; }, {"type 7"}},
      {"type 9", [](auto& f) { f.type = 9; }, {"type 9"}},
      {"type of another width", [](auto& f) { f.type = 4; }, {"sequence 1", "expected 20"}},
      {"sequences too many", [](auto& f) { f.sequences = 4; }, {"4 sequences"}},
      {"sequences huge", [](auto& f) { f.sequences = ~0ull; }, {"sequences"}},
      {"sequences overflow", [](auto& f) { f.sequences = ~0ull / 12 + 4; }, {"sequences"}},
      {"entries huge", [](auto& f) { f.entries = ~0ull; }, {"document"}},
      {"entries overflow", [](auto& f) { f.entries = (1ull << 61) + 4; }, {"document"}},
      {"no entries", [](auto& f) { f.documents.clear(), f.entries = 0; }, {"document index"}},
      {"negative size", [](auto& f) { f.sizes[1] = -1; }, {"sequence 1", "-1"}},
      {"size beyond", [](auto& f) { f.sizes[2] = 8; }, {"sequence 2", "beyond"}},
      {"size largest", [](auto& f) { f.sizes[0] = 0x7fffffff; }, {"sequence 0", "beyond"}},
      {"size short", [](auto& f) { f.sizes[2] = 6; }, {"11 tokens", "12"}},
      {"pointer negative", [](auto& f) { f.pointers[0] = -2; }, {"sequence 0", "-2"}},
      {"pointer odd", [](auto& f) { f.pointers[2] = 11; }, {"sequence 2", "11"}},
      {"pointer beyond", [](auto& f) { f.pointers[2] = kHuge; }, {"sequence 2"}},
      {"pointer overlap", [](auto& f) { f.pointers[2] = 8; }, {"sequence 2", "expected 10"}},
      {"document start", [](auto& f) { f.documents[0] = 1; }, {"entry 0"}},
      {"document back", [](auto& f) { f.documents[2] = 0; }, {"entry 2"}},
      {"document negative", [](auto& f) { f.documents[1] = -1; }, {"entry 1", "-1"}},
      {"document beyond", [](auto& f) { f.documents[2] = 4; }, {"entry 2", "4"}},
      {"document end", [](auto& f) { f.documents[3] = 2; }, {"ends at 2"}},
  };
  for (const auto& bent : cases) {
    SCOPED_TRACE(bent.name);
    auto fields = small_index();
    bent.bend(fields);
    const auto message = input_error([&] { parse(fields.bytes(), kSmallBin); });
    expect_words(message, bent.words);
    expect_words(message, {"x.idx"});
  }
}

TEST(BinidxIndex, BinOfAnotherLengthIsRefused) {
  const std::string whole = small_index().bytes();
  for (const int64_t bytes : {0, 1, 22, 23, 25, 26}) {
    EXPECT_THROW(parse(whole, bytes), InputError) << bytes;
  }
  expect_words(input_error([&] { parse(whole, 25); }), {"25 bytes", "whole number"});
  expect_words(input_error([&] { parse(whole, 26); }), {"12 tokens", "13"});
}

TEST(BinidxIndex, RandomDamageNeverDoesMoreThanThrowInputError) {
  const std::string whole = IndexFields(8, 2, {3, 1, 4, 1, 5, 9, 2, 6}).bytes();
  std::mt19937 random(2024);
  int refused = 0;
  for (int round = 0; round < 10000; ++round) {
    std::string bent = whole;
    const auto changes = 1 + random() % 4;
    for (uint32_t i = 0; i < changes; ++i) {
      bent[random() % bent.size()] = static_cast<char>(random() % 3 ? random() : random() % 9);
    }
    if (random() % 8 == 0) bent.resize(random() % (bent.size() + 9));
    try {
      const auto index = parse(bent, 62);
      EXPECT_EQ(index.tokens * bytes_of(index.type), 62);
    } catch (const InputError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 8000);
}

TEST(BinidxSource, ReadsEveryElementType) {
  const TempFolder folder;
  const std::vector<int64_t> tokens = {1, 127, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const auto expect_read = [&](uint8_t code, const std::string& bin) {
    const auto item = static_cast<int64_t>(bin.size() / tokens.size());
    folder.write("c.bin", bin);
    folder.write("c.idx", IndexFields(code, item, {5, 0, 7}).bytes());
    const auto source = make_train_source(binidx_recipe(folder.path("c"), 4), 128);
    EXPECT_EQ(source->size(), 2) << "floor((12 - 1) / 4)";
    EXPECT_EQ(source->tokens(), 12);
    EXPECT_EQ(read_sample(*source, 1, 4).tokens, (std::vector<int32_t>{3, 4, 5, 6, 7}));
    EXPECT_EQ(read_sample(*source, 0, 4).tokens, (std::vector<int32_t>{1, 127, 0, 2, 3}));
    EXPECT_EQ(source->describe(), "binidx " + folder.path("c") + ", 12 tokens");
  };
  expect_read(1, as_bin<uint8_t>(tokens));
  expect_read(2, as_bin<int8_t>(tokens));
  expect_read(3, as_bin<int16_t>(tokens));
  expect_read(4, as_bin<int32_t>(tokens));
  expect_read(5, as_bin<int64_t>(tokens));
  expect_read(8, as_bin<uint16_t>(tokens));
}

TEST(BinidxSource, TokenOutsideTheVocabularyIsRefusedWhereItIsRead) {
  const TempFolder folder;
  const auto expect_refused = [&](uint8_t code, const std::string& bin, int64_t token) {
    folder.write("c.bin", bin);
    folder.write("c.idx", IndexFields(code, static_cast<int64_t>(bin.size() / 9), {9}).bytes());
    const auto source = make_train_source(binidx_recipe(folder.path("c"), 4), 100);
    EXPECT_NO_THROW(read_sample(*source, 0, 4));
    expect_words(input_error([&] { read_sample(*source, 1, 4); }),
                 {"c.bin", "token " + std::to_string(token) + " ", "position 6", "vocab 100"});
  };
  const auto with = [](int64_t token) {
    return std::vector<int64_t>{0, 1, 2, 3, 99, 5, token, 7, 8};
  };
  expect_refused(1, as_bin<uint8_t>(with(100)), 100);
  expect_refused(2, as_bin<int8_t>(with(-1)), -1);
  expect_refused(3, as_bin<int16_t>(with(-300)), -300);
  expect_refused(4, as_bin<int32_t>(with(1 << 30)), 1 << 30);
  expect_refused(5, as_bin<int64_t>(with((int64_t{1} << 32) + 5)), (int64_t{1} << 32) + 5);
  expect_refused(5, as_bin<int64_t>(with(std::numeric_limits<int64_t>::min())),
                 std::numeric_limits<int64_t>::min());
  expect_refused(8, as_bin<uint16_t>(with(65535)), 65535);
}

TEST(BinidxSource, MissingAndEmptyFilesAreRefused) {
  const TempFolder folder;
  const auto recipe = binidx_recipe(folder.path("c"), 4);
  EXPECT_THROW(make_train_source(recipe, 100), InputError);
  folder.write("c.bin", "");
  EXPECT_THROW(make_train_source(recipe, 100), InputError);
  folder.write("c.idx", "");
  expect_words(input_error([&] { make_train_source(recipe, 100); }), {"c.idx", "0 bytes"});
  folder.write("c.idx", IndexFields(8, 2, {}).bytes());
  expect_words(input_error([&] { make_train_source(recipe, 100); }),
               {"0 tokens", "needs 5 tokens", "train.context 4"});
}

TEST(BinidxSource, ValidationIsAnotherPrefixOrAFraction) {
  const TempFolder folder;
  std::vector<int64_t> tokens(41);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int64_t>(i);
  folder.write("a.bin", as_bin<uint16_t>(tokens));
  folder.write("a.idx", IndexFields(8, 2, {40, 1}).bytes());
  folder.write("b.bin", as_bin<uint16_t>({7, 8, 9, 10, 11}));
  folder.write("b.idx", IndexFields(8, 2, {5}).bytes());
  auto recipe = binidx_recipe(folder.path("a"), 4);
  recipe.data.validation = folder.path("b");
  EXPECT_EQ(make_train_source(recipe, 100)->size(), 10);
  EXPECT_EQ(read_sample(*make_validation_source(recipe, 100), 0, 4).tokens,
            (std::vector<int32_t>{7, 8, 9, 10, 11}));
  recipe.data.validation = "0.3";
  EXPECT_EQ(make_train_source(recipe, 100)->size(), 7);
  const auto held_out = make_validation_source(recipe, 100);
  EXPECT_EQ(held_out->size(), 3);
  EXPECT_EQ(read_sample(*held_out, 0, 4).tokens, (std::vector<int32_t>{28, 29, 30, 31, 32}));
  EXPECT_EQ(make_eval_source(recipe, 100)->size(), 10);
}

TEST(Binidx, DocumentsStartWhereSequencesDo) {
  const TempFolder folder;
  folder.write("x.bin", as_bin<uint16_t>({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}));
  folder.write("x.idx", IndexFields(8, 2, {5, 0, 4, 1, 3}).bytes());
  const auto stream = open_binidx(folder.path("x"), 20);
  const std::vector<int32_t> all = {1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0};
  for (size_t begin = 0; begin <= all.size(); ++begin) {
    for (size_t end = begin; end <= all.size(); ++end) {
      std::vector<int32_t> got(end - begin, 7);
      stream->read_starts(static_cast<int64_t>(begin), got);
      EXPECT_EQ(got, std::vector<int32_t>(all.begin() + static_cast<std::ptrdiff_t>(begin),
                                          all.begin() + static_cast<std::ptrdiff_t>(end)));
    }
  }
}

}  // namespace
}  // namespace rwkv::testing
