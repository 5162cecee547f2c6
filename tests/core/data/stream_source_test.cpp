#include "core/data/stream_source.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "core/data/token_stream.h"
#include "tests/core/data/data_test_support.h"

namespace rwkv::testing {
namespace {

std::vector<int32_t> count_up(int32_t first, int32_t count) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

// Bytes 0, 1, 2, ... : token i is i + 1.
std::string rising_bytes(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += static_cast<char>(i);
  return text;
}

Recipe text_recipe(const std::string& path, int64_t context) {
  Recipe recipe;
  recipe.data.source = "text";
  recipe.data.path = path;
  recipe.train.context = context;
  recipe.train.batch = 2;
  return recipe;
}

TEST(TextSource, CutsTheFileIntoSamplesThatShareOneToken) {
  const TempFolder folder;
  const auto recipe = text_recipe(folder.write("a.txt", rising_bytes(20)), 5);
  const auto source = make_train_source(recipe, 257);
  EXPECT_EQ(source->size(), 4);  // 21 tokens with the end
  EXPECT_EQ(source->tokens(), 21);
  for (const int32_t n : {3, 0, 2, 1}) {
    const Sample sample = read_sample(*source, n, 5);
    auto expected = count_up(n * 5 + 1, 6);
    if (n == 3) expected.back() = 0;
    EXPECT_EQ(sample.tokens, expected);
    EXPECT_EQ(sample.weight, std::vector<float>(5, 1.0f));
    EXPECT_EQ(sample.question, std::vector<int32_t>(5, kUngraded));
    EXPECT_EQ(sample.skill, std::vector<int32_t>(5, kUngraded));
    EXPECT_TRUE(std::isnan(sample.nats));
  }
  EXPECT_TRUE(source->skills().empty());
  EXPECT_EQ(source->describe(), "text " + recipe.data.path + ", 21 tokens");
}

TEST(TextSource, SizeIsTokensLessOneOverContext) {
  const TempFolder folder;
  for (int bytes = 4; bytes < 24; ++bytes) {
    const auto recipe = text_recipe(folder.write("a.txt", rising_bytes(bytes)), 4);
    EXPECT_EQ(make_train_source(recipe, 257)->size(), bytes / 4) << bytes << " bytes and the end";
  }
}

TEST(TextSource, AnyByteIsAToken) {
  const TempFolder folder;
  const auto source =
      make_train_source(text_recipe(folder.write("a", rising_bytes(256)), 256), 257);
  auto expected = count_up(1, 256);
  expected.push_back(0);
  EXPECT_EQ(read_sample(*source, 0, 256).tokens, expected);
}

TEST(TextSource, TooShortFilesAreRefusedNamingWhatIsNeeded) {
  const TempFolder folder;
  const auto recipe = text_recipe(folder.write("short.txt", rising_bytes(7)), 8);
  expect_words(input_error([&] { make_train_source(recipe, 257); }),
               {"short.txt", "8 tokens", "train.context 8", "needs 9 tokens"});
  const auto empty = text_recipe(folder.write("empty.txt", ""), 8);
  expect_words(input_error([&] { make_train_source(empty, 257); }),
               {"empty.txt", "1 tokens", "needs 9 tokens"});
  EXPECT_THROW(make_train_source(text_recipe(folder.path("absent"), 8), 257), InputError);
}

TEST(TextSource, TokenOutsideTheVocabularyIsRefusedWhereItIsRead) {
  const TempFolder folder;
  const auto source =
      make_train_source(text_recipe(folder.write("a.txt", rising_bytes(20)), 5), 13);
  EXPECT_NO_THROW(read_sample(*source, 1, 5));  // up to token 11
  expect_words(input_error([&] { read_sample(*source, 2, 5); }),
               {"a.txt", "token 13", "position 12", "vocab 13"});
}

TEST(TextSource, ReadsThroughTheWorldTokenizer) {
  const TempFolder folder;
  std::string vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    constexpr std::string_view kHex = "0123456789abcdef";
    vocabulary += std::to_string(byte + 1) + " b'\\x" + kHex[static_cast<size_t>(byte / 16)] +
                  kHex[static_cast<size_t>(byte % 16)] + "' 1\n";
  }
  auto recipe = text_recipe(folder.write("a.txt", "ababa"), 2);
  recipe.data.tokenizer = "world:" + folder.write("vocab", vocabulary + "400 'ab' 2\n");
  const auto source = make_train_source(recipe, 401);
  EXPECT_EQ(source->tokens(), 4);
  EXPECT_EQ(read_sample(*source, 0, 2).tokens, (std::vector<int32_t>{400, 400, 'a' + 1}));
  expect_words(input_error([&] { read_sample(*make_train_source(recipe, 400), 0, 2); }),
               {"a.txt", "token 400", "position 0", "vocab 400"});
}

TEST(Validation, FractionHoldsTheLastSamplesOut) {
  const TempFolder folder;
  auto recipe = text_recipe(folder.write("a.txt", rising_bytes(101)), 5);
  const auto all = make_eval_source(recipe, 257);
  recipe.data.validation = "0.25";
  const auto train = make_train_source(recipe, 257), held_out = make_validation_source(recipe, 257);
  EXPECT_EQ(all->size(), 20);
  EXPECT_EQ(train->size(), 15);
  EXPECT_EQ(held_out->size(), 5);
  EXPECT_EQ(train->tokens(), 76);
  EXPECT_EQ(held_out->tokens(), 27);  // 102 - 75: the two tokens behind the last sample too
  for (int64_t n = 0; n < 20; ++n) {
    const auto& part = n < 15 ? *train : *held_out;
    EXPECT_EQ(read_sample(part, n < 15 ? n : n - 15, 5).tokens, read_sample(*all, n, 5).tokens);
  }
  EXPECT_THROW(read_sample(*train, 15, 5), Error);
  EXPECT_THROW(read_sample(*held_out, 5, 5), Error);
  expect_words(held_out->describe(), {"a.txt", "samples 16 to 20 of 20"});
  EXPECT_EQ(make_eval_source(recipe, 257)->size(), 20) << "eval reads everything";
}

TEST(Validation, EitherPartKeepsASample) {
  const TempFolder folder;
  auto recipe = text_recipe(folder.write("a.txt", rising_bytes(10)), 5);
  for (const char* fraction : {"0.001", "0.999"}) {
    recipe.data.validation = fraction;
    EXPECT_EQ(make_train_source(recipe, 257)->size(), 1);
    EXPECT_EQ(make_validation_source(recipe, 257)->size(), 1);
  }
  recipe.data.path = folder.write("b.txt", rising_bytes(9));
  expect_words(input_error([&] { make_train_source(recipe, 257); }),
               {"b.txt", "10 tokens", "two samples", "11 tokens"});
}

TEST(Validation, ComesFromAnotherFileOrIsNone) {
  const TempFolder folder;
  auto recipe = text_recipe(folder.write("a.txt", rising_bytes(101)), 5);
  EXPECT_EQ(make_validation_source(recipe, 257), nullptr);
  recipe.data.validation = folder.write("b.txt", rising_bytes(11).substr(1));
  EXPECT_EQ(make_train_source(recipe, 257)->size(), 20);
  const auto held_out = make_validation_source(recipe, 257);
  EXPECT_EQ(held_out->size(), 2);
  EXPECT_EQ(read_sample(*held_out, 0, 5).tokens, count_up(2, 6));
  for (const char* fraction : {"0", "1", "1.5", "-0.1"}) {
    recipe.data.validation = fraction;
    expect_words(input_error([&] { make_validation_source(recipe, 257); }),
                 {"data.validation", "fraction", fraction});
  }
}

TEST(Validation, GeneratorsUseTheNextSeed) {
  Recipe recipe;
  recipe.run.seed = 5;
  const auto held_out = make_validation_source(recipe, 257);
  const auto eval = make_eval_source(recipe, 257), train = make_train_source(recipe, 257);
  recipe.run.seed = 6;
  const auto next = make_train_source(recipe, 257);
  EXPECT_EQ(read_sample(*held_out, 3, 100), read_sample(*next, 3, 100));
  EXPECT_EQ(read_sample(*eval, 3, 100), read_sample(*next, 3, 100));
  EXPECT_NE(read_sample(*train, 3, 100).tokens, read_sample(*next, 3, 100).tokens);
}

TEST(MakeSampler, FollowsTheRecipe) {
  const TempFolder folder;
  auto recipe = text_recipe(folder.write("a.txt", rising_bytes(100)), 5);
  const auto source = make_train_source(recipe, 257);
  recipe.data.sampler = "sequential";
  EXPECT_EQ(make_sampler(recipe, *source)->sample(10, 1), 1);
  recipe.data.sampler = "shuffle";
  std::set<int64_t> seen;
  const auto shuffle = make_sampler(recipe, *source);
  for (int64_t step = 0; step < 10; ++step) {
    seen.insert({shuffle->sample(step, 0), shuffle->sample(step, 1)});
  }
  EXPECT_EQ(seen.size(), 20u);
  recipe.data.sampler = "rwkv_lm";  // 101 tokens: p = 17, factor = 10
  EXPECT_EQ(make_sampler(recipe, *source)->sample(0, 1), 10 * 8 % 17);
  recipe.data.sampler = "other";
  expect_words(input_error([&] { make_sampler(recipe, *source); }), {"data.sampler", "'other'"});
}

TEST(MakeSampler, EverySampleOfRwkvLmCanBeRead) {
  const TempFolder folder;
  for (int bytes = 15; bytes < 40; ++bytes) {  // 3 contexts of 5 and more
    auto recipe = text_recipe(folder.write("a.txt", rising_bytes(bytes)), 5);
    recipe.data.sampler = "rwkv_lm";
    const auto source = make_train_source(recipe, 257);
    const auto sampler = make_sampler(recipe, *source);
    for (int64_t step = 0; step < 20; ++step) {
      EXPECT_NO_THROW(read_sample(*source, sampler->sample(step, 0), 5)) << bytes << " bytes";
    }
  }
}

TEST(MakeSampler, GeneratorsHaveNoEnd) {
  Recipe recipe;
  recipe.train.batch = 4;
  const auto source = make_train_source(recipe, 257);
  for (const char* kind : {"shuffle", "sequential"}) {
    recipe.data.sampler = kind;
    EXPECT_EQ(make_sampler(recipe, *source)->sample(1000, 3), 4003);
  }
  recipe.data.sampler = "rwkv_lm";
  expect_words(input_error([&] { make_sampler(recipe, *source); }), {"data.sampler", "rwkv_lm"});
}

TEST(MakeSource, UnknownSourceIsRefused) {
  Recipe recipe;
  recipe.data.source = "mqar";
  expect_words(input_error([&] { make_train_source(recipe, 257); }), {"data.source", "'mqar'"});
}

TEST(WithCommas, GroupsByThree) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(1234567), "1,234,567");
  EXPECT_EQ(with_commas(-1234), "-1,234");
  EXPECT_EQ(with_commas(-123), "-123");
}

TEST(TextSource, ADocumentStartsBehindAnEndToken) {
  const TempFolder folder;
  const auto stream = open_text(folder.write("a.txt", rising_bytes(6)), "bytes", 257);
  std::vector<int32_t> starts(7, 9);  // the text and its end token
  stream->read_starts(0, starts);
  EXPECT_EQ(starts, (std::vector<int32_t>{1, 0, 0, 0, 0, 0, 0}));
  starts.resize(3);
  stream->read_starts(4, starts);
  EXPECT_EQ(starts, (std::vector<int32_t>{0, 0, 0}));

  const StreamSource source(open_text(folder.path("a.txt"), "bytes", 257), 3);
  Sample sample(3);
  SampleView view = sample.view();
  std::vector<int32_t> of_sample(3, 9);
  view.starts = of_sample;
  source.read(1, view);
  EXPECT_EQ(of_sample, (std::vector<int32_t>{0, 0, 0}));
  source.read(0, view);
  EXPECT_EQ(of_sample, (std::vector<int32_t>{1, 0, 0}));
}

}  // namespace
}  // namespace rwkv::testing
