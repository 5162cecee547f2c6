// Numbers as a recipe writes them: decimal, no leading zeros, no point in an integer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace rwkv {

bool looks_like_number(std::string_view);
std::optional<int64_t> parse_integer(std::string_view);
std::optional<uint64_t> parse_unsigned(std::string_view);
// Finite. Texts too large or too small for a double give nothing.
std::optional<double> parse_real(std::string_view);

// Why a text that was meant as an integer is none, with a space in front; empty: no idea.
std::string integer_hint(std::string_view);

}  // namespace rwkv
