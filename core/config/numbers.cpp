#include "core/config/numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace rwkv {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

size_t take_digits(std::string_view& text) {
  size_t n = 0;
  while (n < text.size() && is_digit(text[n])) ++n;
  text.remove_prefix(n);
  return n;
}

struct Form {
  bool number = false, integer = false, leading_zero = false;
};

// [+-] digits [. digits] [e [+-] digits], with a digit before or after the point.
Form form_of(std::string_view text) {
  Form form;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) text.remove_prefix(1);
  form.leading_zero = text.size() > 1 && text[0] == '0' && is_digit(text[1]);
  size_t digits = take_digits(text);
  form.integer = digits > 0 && text.empty();
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    digits += take_digits(text);
  }
  if (digits == 0) return form;
  if (text.starts_with('e') || text.starts_with('E')) {
    text.remove_prefix(1);
    if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
    if (take_digits(text) == 0) return form;
  }
  form.number = text.empty();
  return form;
}

template <class T>
std::optional<T> convert(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

bool looks_like_number(std::string_view text) { return form_of(text).number; }

std::optional<int64_t> parse_integer(std::string_view text) {
  const Form form = form_of(text);
  if (!form.integer || form.leading_zero) return std::nullopt;
  return convert<int64_t>(text);
}

std::optional<uint64_t> parse_unsigned(std::string_view text) {
  const Form form = form_of(text);
  if (!form.integer || form.leading_zero || text.starts_with('-')) return std::nullopt;
  return convert<uint64_t>(text);
}

std::optional<double> parse_real(std::string_view text) {
  const Form form = form_of(text);
  if (!form.number || form.leading_zero) return std::nullopt;
  return convert<double>(text);
}

std::string integer_hint(std::string_view text) {
  const Form form = form_of(text);
  if (!form.number) return "";
  if (form.leading_zero) return " (no leading zeros)";
  if (form.integer) return "";
  const auto real = parse_real(text);
  const bool whole = real && std::trunc(*real) == *real && std::abs(*real) < 1e15;
  return whole ? fmt::format(" (write {:.0f})", *real) : " (no fraction, no exponent)";
}

}  // namespace rwkv
