// The RWKV World vocabulary: greedy longest match over bytes.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/data/tokenizer.h"

namespace rwkv {

// What decode() gives for an id that no text belongs to: U+FFFD in UTF-8.
inline constexpr std::string_view kNoText = "\xEF\xBF\xBD";

// `content` is the vocabulary file's: a line "ID LITERAL BYTES" for each token, the literal written
// as Python writes a str or a bytes object. Ids lie in 1..65535, vocab() is 65,536, and every
// single byte must be a token. Throws InputError naming `path` and the line.
std::unique_ptr<Tokenizer> make_world_tokenizer(std::string_view content, const std::string& path);

}  // namespace rwkv
