// Sources that make their samples: plain English with questions whose answers follow from the text,
// and whose true probability is known byte by byte. Tokens are those of the bytes tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "core/data/source.h"

namespace rwkv {

bool is_generator(std::string_view name);

// "skills" or "reverse". Sample n depends on (name, seed, n) alone; a shorter context gives a
// prefix of it. read() allocates nothing. Throws InputError when `vocab` cannot hold every byte.
//
// reverse: lines "40917 reversed is 71904.", 3 to 6 digits, each length equally likely.
// skills:  those lines, one or two at a time, and between them stories: three people are placed in
//          different towns, one or two moves to towns where nobody is, a question, moves and a
//          question again. With context >= 220 every sample holds both kinds whole.
//
// Chance: "where" is 1/4, of the guess that names the town mentioned last; no other fixed place in
// the text and no fixed town does better. "reverse" is the share of palindromes, which a guess that
// repeats the number gets right.
std::unique_ptr<SampleSource> make_generator(std::string_view name, uint64_t seed, int64_t vocab);

}  // namespace rwkv
