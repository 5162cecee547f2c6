#include "core/data/tokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>

#include "core/data/world_tokenizer.h"
#include "tests/core/data/data_test_support.h"

namespace rwkv::testing {
namespace {

using Tokens = std::vector<int32_t>;

std::string every_byte() {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text += static_cast<char>(byte);
  return text;
}

// Lines "ID b'\xNN' 1" for all bytes.
std::string byte_lines() {
  std::string lines;
  const char* hex = "0123456789abcdef";
  for (int byte = 0; byte < 256; ++byte) {
    lines += std::to_string(byte + 1) + " b'\\x" + hex[byte / 16] + hex[byte % 16] + "' 1\n";
  }
  return lines;
}

TEST(BytesTokenizer, TokenIsByteAndOne) {
  const auto tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab(), 257);
  EXPECT_EQ(tokenizer->encode("Aa\n"), (Tokens{66, 98, 11}));
  EXPECT_EQ(tokenizer->encode(""), Tokens{});
  const Tokens all = tokenizer->encode(every_byte());
  EXPECT_EQ(all.front(), 1);
  EXPECT_EQ(all.back(), 256);
  EXPECT_EQ(tokenizer->decode(all), every_byte());
}

TEST(BytesTokenizer, EndGivesNothingAndForeignTokensAMark) {
  const auto tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(tokenizer->decode(Tokens{0, 66, 0}), "A");
  EXPECT_EQ(tokenizer->decode(Tokens{257, 66, -1}),
            "\xEF\xBF\xBD"
            "A"
            "\xEF\xBF\xBD");
}

TEST(MakeTokenizer, RefusesWhatItDoesNotKnow) {
  for (const char* spec : {"", "byte", "world", "world:", "Bytes"}) {
    expect_words(input_error([&] { make_tokenizer(spec); }),
                 {"data.tokenizer", "bytes", "world:PATH", std::string("'") + spec + "'"});
  }
  EXPECT_THROW(make_tokenizer("world:/nowhere/vocab.txt"), InputError);
}

TEST(WorldTokenizer, TakesTheLongestMatch) {
  const auto tokenizer = make_world_tokenizer(
      byte_lines() +
          "300 'ab' 2\n301 \"it's\" 4\n302 'abcd' 4\n303 '  x' 3\n304 '\\u4f60' 3\n"
          "305 '\\x80' 2\n306 b'\\xe4\\xbd' 2\n307 '\\n\\'\\\\\"' 4\n",
      "vocab");
  EXPECT_EQ(tokenizer->vocab(), 65536);
  EXPECT_EQ(tokenizer->encode("abcabcd"), (Tokens{300, 'c' + 1, 302}));
  EXPECT_EQ(tokenizer->encode("it's  x"), (Tokens{301, 303}));
  EXPECT_EQ(tokenizer->encode("\xe4\xbd\xa0\xe4\xbd"), (Tokens{304, 306}));
  EXPECT_EQ(tokenizer->encode("\xc2\x80"), Tokens{305});
  EXPECT_EQ(tokenizer->encode("\n'\\\""), Tokens{307});
  EXPECT_EQ(tokenizer->decode(Tokens{302, 0, 304, 9999, 65536, -5, 301}),
            "abcd\xe4\xbd\xa0\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDit's");
}

TEST(WorldTokenizer, ReadsLinesEndingInCarriageReturn) {
  std::string text = byte_lines() + "300 'ab' 2\n";
  for (size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 2) {
    text.replace(at, 1, "\r\n");
  }
  EXPECT_EQ(make_world_tokenizer(text, "vocab")->encode("ab"), Tokens{300});
}

TEST(WorldTokenizer, RefusesABrokenLineByItsNumber) {
  for (const char* line :
       {"x 'ab' 2", "300 'ab' 3", "300 'ab'", "300", "300 ab 2", "300 'ab 3", "300 '\\q' 1",
        "300 '\\x4' 1", "300 '' 0", "0 'ab' 2", "65536 'ab' 2", "-1 'ab' 2", "66 'ab' 2",
        "300 'A' 1", "300 b'\\u1234' 3", "300 'a'b' 3", "300 '\\U99999999' 4", "300 '\\' 1"}) {
    const auto message =
        input_error([&] { make_world_tokenizer(byte_lines() + line + "\n", "the/vocab"); });
    expect_words(message, {"the/vocab:257:"});
  }
  expect_words(input_error([] { make_world_tokenizer("1 '\\x00' 1\n", "the/vocab"); }),
               {"the/vocab", "256 bytes"});
  EXPECT_THROW(make_world_tokenizer("", "empty"), InputError);
}

class PublishedVocabulary : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* given = std::getenv("RWKV_TEST_DATA");
    const std::string folder = given ? given : std::string(RWKV_SOURCE_DIR) + "/../shared/data";
    const std::string path = folder + "/rwkv_vocab_v20230424.txt";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is absent";
    tokenizer_ = make_tokenizer("world:" + path);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(PublishedVocabulary, EncodesThePublishedVectors) {
  EXPECT_EQ(tokenizer_->encode("Hello"), Tokens{33155});
  EXPECT_EQ(tokenizer_->encode(" Hello"), Tokens{36786});
  EXPECT_EQ(tokenizer_->encode("Hello "), (Tokens{33155, 33}));
  EXPECT_EQ(tokenizer_->encode("1234567"), (Tokens{632, 654, 676, 56}));
  EXPECT_EQ(tokenizer_->encode("\n\nUser: hi\n\nAssistant:"),
            (Tokens{261, 24281, 59, 4571, 261, 5585, 41693, 59}));
  EXPECT_EQ(tokenizer_->encode("\u4f60\u597d\uff0c\u4e16\u754c"),
            (Tokens{10464, 11685, 19137, 10267, 14610}));
}

TEST_F(PublishedVocabulary, ContainsTheBytesAndReadsEveryTokenBack) {
  const auto bytes = make_tokenizer("bytes");
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    EXPECT_EQ(tokenizer_->encode(text), bytes->encode(text));
  }
  for (int32_t token = 1; token <= 65529; ++token) {
    ASSERT_EQ(tokenizer_->encode(tokenizer_->decode(Tokens{token})), Tokens{token});
  }
}

TEST_F(PublishedVocabulary, RandomBytesSurviveTheRoundTrip) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    std::string text;
    for (int i = 0; i < 300; ++i) text += static_cast<char>(random() % (round % 2 ? 256 : 64) + 32);
    EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text)), text);
  }
}

}  // namespace
}  // namespace rwkv::testing
