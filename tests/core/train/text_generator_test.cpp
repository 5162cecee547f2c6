// Sampling, and text from a model.
#include "core/train/text_generator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/plan/param_table.h"
#include "tests/core/train/train_test_support.h"
#include "tests/support/model_run.h"

namespace rwkv {
namespace {

using namespace test;

const double kInfinity = std::numeric_limits<double>::infinity();

// Probabilities 0.5, 0.3, 0.2 for tokens 2, 0, 1.
const std::vector<double> kLogits = {std::log(0.3), std::log(0.2), std::log(0.5)};

TEST(PickToken, TemperatureZeroTakesTheLikeliest) {
  for (double random : {0.0, 0.5, 0.999999}) EXPECT_EQ(pick_token(kLogits, 0, 1, random), 2);
  EXPECT_EQ(pick_token({1, 3, 3}, 0, 1, 0.9), 1);  // the first of equals
}

TEST(PickToken, TakesTokensByTheirProbability) {
  const std::vector<std::pair<double, int32_t>> table = {
      {0.0, 2}, {0.49, 2}, {0.51, 0}, {0.79, 0}, {0.81, 1}, {0.9999999999999999, 1}};
  for (const auto& [random, token] : table)
    EXPECT_EQ(pick_token(kLogits, 1, 1, random), token) << random;
}

TEST(PickToken, TemperatureSharpensAndFlattens) {
  // At 1/2 probabilities are squared: 25, 9, 4 of 38.
  EXPECT_EQ(pick_token(kLogits, 0.5, 1, 24.9 / 38), 2);
  EXPECT_EQ(pick_token(kLogits, 0.5, 1, 25.1 / 38), 0);
  EXPECT_EQ(pick_token(kLogits, 0.5, 1, 34.1 / 38), 1);
  // A very small one must not divide by zero or overflow.
  EXPECT_EQ(pick_token(kLogits, 1e-300, 1, 0.999), 2);
  // A very high one: all alike.
  EXPECT_EQ(pick_token(kLogits, 1e9, 1, 0.32), 2);
  EXPECT_EQ(pick_token(kLogits, 1e9, 1, 0.35), 0);
  EXPECT_EQ(pick_token(kLogits, 1e9, 1, 0.68), 1);
}

TEST(PickToken, TopPKeepsTheSmallestSetThatHoldsIt) {
  const double last = 0.9999999;
  EXPECT_EQ(pick_token(kLogits, 1, 0, last), 2);  // never fewer than one
  EXPECT_EQ(pick_token(kLogits, 1, 0.4, last), 2);
  EXPECT_EQ(pick_token(kLogits, 1, 0.51, last), 0);
  EXPECT_EQ(pick_token(kLogits, 1, 0.79, last), 0);
  EXPECT_EQ(pick_token(kLogits, 1, 0.81, last), 1);
  // What is kept is renormalised: 5/8 and 3/8.
  EXPECT_EQ(pick_token(kLogits, 1, 0.79, 0.62), 2);
  EXPECT_EQ(pick_token(kLogits, 1, 0.79, 0.63), 0);
}

TEST(PickToken, TokensThatCannotComeNeverDo) {
  const std::vector<double> logits = {-kInfinity, 0, -kInfinity};
  for (double random : {0.0, 0.5, 0.9999999999999999}) {
    EXPECT_EQ(pick_token(logits, 1, 1, random), 1);
  }
  EXPECT_EQ(pick_token({5}, 1, 1, 0.7), 0);  // a vocabulary of one
}

class Generator : public testing::Test {
 protected:
  Generator() {
    ModelConfig config;
    config.layers = 2;
    config.width = 32;
    config.head_size = 16;
    model_ = std::make_unique<Model>(resolve_model(config, tokenizer_->vocab()));
    store_ = std::make_unique<ParamStore>(model_->params(), kDouble, false);
    randomize(*store_);
  }

  // Logits behind the last token, all tokens in one pass.
  std::vector<double> in_one_piece(const std::vector<int32_t>& tokens) const {
    const auto count = static_cast<int64_t>(tokens.size());
    Workspace ws(*model_, {kDouble, 1, count, 1, false, false});
    model_->reset(ws);
    model_->forward(pass_, *store_, ws, view_of(tokens.data(), {1, count}));
    Owned<double> logits({1, model_->config().vocab});
    model_->last_logits(pass_, *store_, ws, logits.view());
    return logits.copy();
  }
  std::string text(const std::string& prompt, const SamplingOptions& options,
                   bool begin_with_end_token = true) const {
    const auto tokens =
        encode_prompt(*tokenizer_, prompt, begin_with_end_token, model_->config().vocab);
    return generate_text(pass_, *model_, *store_, kDouble, *tokenizer_, tokens, options,
                         *make_self());
  }
  std::vector<double> after(const std::vector<int32_t>& tokens) const {
    return logits_after(pass_, *model_, *store_, kDouble, tokens, *make_self());
  }

  std::unique_ptr<Tokenizer> tokenizer_ = make_tokenizer("bytes");
  std::unique_ptr<Model> model_;
  std::unique_ptr<ParamStore> store_;
  Pass pass_{{1}, reference_backend()};
};

TEST_F(Generator, APromptInPiecesGivesTheLogitsOfOnePiece) {
  const Philox random(1, "prompt");
  std::vector<int32_t> tokens;
  std::vector<double> before;
  for (int64_t length : {1, 2, 511, 512, 513, 4095, 4096, 4097, 4700}) {
    while (static_cast<int64_t>(tokens.size()) < length) {
      tokens.push_back(static_cast<int32_t>(random.below(257, tokens.size())));
    }
    const std::vector<double> want = in_one_piece(tokens);
    const std::vector<double> got = after(tokens);
    EXPECT_LT(distance(got, want), 1e-12) << length;
    if (!before.empty()) {
      EXPECT_GT(distance(want, before), 1e-3) << length;
    }
    before = want;
  }
}

TEST_F(Generator, RanksShareAPrompt) {
  std::vector<int32_t> tokens(700);
  for (size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<int32_t>(1 + t * t % 256);
  const std::vector<double> want = after(tokens);
  const SamplingOptions options{.tokens = 9, .temperature = 0};
  const std::string text =
      generate_text(pass_, *model_, *store_, kDouble, *tokenizer_, tokens, options, *make_self());
  Pass folded = pass_;
  folded.leaf = folded.tile = 128;
  for (int ranks : {2, 3, 8}) {
    run_local(ranks, [&](Communicator& comm) {
      for (const Pass& pass : {pass_, folded}) {
        const auto got = logits_after(pass, *model_, *store_, kDouble, tokens, comm);
        EXPECT_LT(distance(got, want), 1e-12) << ranks;
        const std::string same =
            generate_text(pass, *model_, *store_, kDouble, *tokenizer_, tokens, options, comm);
        EXPECT_EQ(same, comm.rank() == 0 ? text : "");
      }
    });
  }
}

// What was seen long before still counts: the state is carried over the pieces.
TEST_F(Generator, TheFirstPieceIsRemembered) {
  std::vector<int32_t> tokens(4200, 98);
  const std::vector<double> a = after(tokens);
  for (size_t t = 0; t < 4096; ++t) tokens[t] = 99;
  EXPECT_GT(distance(after(tokens), a), 1e-9);
}

TEST_F(Generator, EachTokenFollowsFromAllBefore) {
  const std::string made = text("ab", {.tokens = 6, .temperature = 0});
  ASSERT_EQ(made.size(), 6u);
  std::vector<int32_t> tokens = {kEndToken, 'a' + 1, 'b' + 1};
  for (char c : made) {
    const std::vector<double> logits = in_one_piece(tokens);
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    EXPECT_EQ(static_cast<int64_t>(static_cast<unsigned char>(c)) + 1, best);
    tokens.push_back(static_cast<int32_t>(best));
  }
}

TEST_F(Generator, SeedsAndOptionsDecideTheText) {
  const std::string one = text("ab", {.tokens = 30, .seed = 5});
  EXPECT_EQ(text("ab", {.tokens = 30, .seed = 5}), one);
  EXPECT_NE(text("ab", {.tokens = 30, .seed = 6}), one);
  EXPECT_NE(text("ac", {.tokens = 30, .seed = 5}), one);
  EXPECT_EQ(text("ab", {.tokens = 0}), "");
  EXPECT_TRUE(one.starts_with(text("ab", {.tokens = 7, .seed = 5})));
}

TEST_F(Generator, AnEmptyPromptStartsFromTheEndToken) {
  const std::string with = text("", {.tokens = 8, .temperature = 0});
  EXPECT_EQ(text("", {.tokens = 8, .temperature = 0}, false), with);
}

TEST_F(Generator, StopsAtTheEndToken) {
  // A head that gives token 0 the largest logit whatever comes before.
  const Tensor bias = store_->master(static_cast<size_t>(store_->find("ln_out.bias")));
  const Tensor weight = store_->master(static_cast<size_t>(store_->find("ln_out.weight")));
  const Tensor head = store_->master(static_cast<size_t>(store_->find("head.weight")));
  std::fill_n(weight.as<double>(), weight.elements(), 0.0);
  std::fill_n(bias.as<double>(), bias.elements(), 1.0);
  std::fill_n(head.as<double>(), head.elements(), 0.0);
  std::fill_n(head.as<double>(), 32, 1.0);
  EXPECT_EQ(text("ab", {.tokens = 8, .temperature = 0}), "");
}

TEST_F(Generator, TokensOutsideTheVocabularyAreRefused) {
  try {
    encode_prompt(*tokenizer_, "ab\x7f", true, 100);
    FAIL() << "token 128 was accepted";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("token 128"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("99"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace rwkv
