// Text from a model: the prompt in one pass, then token by token with the carried state.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/data/tokenizer.h"
#include "core/model/model.h"

namespace rwkv {

struct SamplingOptions {
  int64_t tokens = 256;
  double temperature = 1.0;  // 0: the most likely token
  double top_p = 1.0;        // the smallest set of tokens that holds this probability
  uint64_t seed = 1;
  bool begin_with_end_token = true;  // token 0 before the prompt, as evaluation does
};

// The prompt's continuation; stops at token 0. The same seed gives the same text.
std::string generate_text(const Pass&, const Model&, const ParamStore&, Precision, const Tokenizer&,
                          std::string_view prompt, const SamplingOptions&);

// Logits (V) behind the last of `tokens` (at least one): the way of a prompt, in pieces of at most
// 512 tokens.
std::vector<double> logits_after(const Pass&, const Model&, const ParamStore&, Precision,
                                 std::span<const int32_t> tokens);

// Picks a token from logits (V). Pure; `random` is uniform in [0, 1).
int32_t pick_token(const std::vector<double>& logits, double temperature, double top_p,
                   double random);

}  // namespace rwkv
