// Text from a model: the prompt in segments over the ranks, as any sequence, then token by token
// with the carried state.
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
};

// A prompt's tokens, token 0 before them if asked for (as evaluation does) or where there are none.
// Throws InputError naming a token that is not below `vocab`.
std::vector<int32_t> encode_prompt(const Tokenizer&, std::string_view prompt,
                                   bool begin_with_end_token, int64_t vocab);

// The prompt's continuation, on rank 0 (empty on others); stops at token 0. The same seed gives the
// same text. Collective: all ranks have the same arguments.
std::string generate_text(const Pass&, const Model&, const ParamStore&, Precision, const Tokenizer&,
                          std::span<const int32_t> prompt, const SamplingOptions&,
                          Communicator& ranks);

// Logits (V) behind the last of `tokens` (at least one): the way of a prompt. Collective.
std::vector<double> logits_after(const Pass&, const Model&, const ParamStore&, Precision,
                                 std::span<const int32_t> tokens, Communicator& ranks);

// Picks a token from logits (V). Pure; `random` is uniform in [0, 1).
int32_t pick_token(const std::vector<double>& logits, double temperature, double top_p,
                   double random);

}  // namespace rwkv
