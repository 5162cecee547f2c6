// Text made fit for a terminal or a page, and how wide it is there.
#pragma once

#include <string>
#include <string_view>

namespace rwkv {

// Columns of a terminal: 2 for wide East Asian characters and emoji, 0 for combining marks and
// control characters.
int display_width(std::string_view text);

// `text` with nothing in it that a terminal acts upon: control characters, marks that turn the
// direction of writing and broken UTF-8 become \n, \t, \x1b, \u202e... A backslash stays as it is.
std::string escape_controls(std::string_view text);

// `text` for the content and the attributes of XML and HTML; what they forbid becomes U+FFFD.
std::string escape_markup(std::string_view text);

// A word as a shell reads it back.
std::string shell_word(const std::string& word);

}  // namespace rwkv
