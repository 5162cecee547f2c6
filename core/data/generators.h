// Sources that make their samples: plain English with questions whose answers follow from the text,
// and whose true probability is known byte by byte. Tokens are those of the bytes tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "core/data/source.h"

namespace rwkv {

bool is_generator(std::string_view name);

// "skills", "reverse" or "needle". Sample n depends on (name, seed, n) alone; a shorter context
// gives a prefix of it, but of needle, whose last question stands at the end. read() allocates
// nothing. Throws InputError when `vocab` cannot hold every byte.
//
// reverse: lines "40917 reversed is 71904.", 3 to 6 digits, each length equally likely.
// skills:  those lines in turn with stories of 1 to 4 people, each size equally likely. All are
//          placed in different towns; then come people + 1 times two questions and somebody's move
//          to a town where nobody is, and two last questions. Each question is for anyone. The
//          short stories teach what the long ones need. With context
//          >= 367 every sample holds a story and a reversal whole. A story of two begins:
//            Ann is in Rome. Ben is in Oslo. Where is Ben? Oslo. Ann? Rome. Ann went to Cork. Where
//            is Ann? Cork. Ann? Cork.
//
// needle: core/data/needle.h; each skill's chance is 1/10 for who has forgotten the facts.
//
// Skills and their chance. All people of a story are asked for equally often; its chance is that of
// the best guess that does not look at who is asked for, such as the last town mentioned.
//   recall   stories of one person: 1, that guess is always right
//   pair     stories of two: 1/2
//   where    stories of four: 1/4
//   reverse  the share of palindromes, which a guess that repeats the number gets right
// Answered, but not graded: questions in stories of three, and the second of each two (where it
// asks for the same person again, copying is right).
std::unique_ptr<SampleSource> make_generator(std::string_view name, uint64_t seed, int64_t vocab);

}  // namespace rwkv
