// UTF-8, one character at a time.
#pragma once

#include <cstddef>
#include <string_view>

namespace rwkv {

// Bytes of the character that `text` (not empty) begins with; 0 when there is none.
size_t utf8_length(std::string_view text);

bool is_control(unsigned char byte);  // C0 and DEL; line breaks and tabs too

}  // namespace rwkv
