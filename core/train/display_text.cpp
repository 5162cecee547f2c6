#include "core/train/display_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/config/utf8.h"

namespace rwkv {
namespace {

// What stands at a place of a text. A byte that begins no character is one of its own.
struct CodePoint {
  char32_t value = 0;
  size_t bytes = 1;
  bool valid = true;
};

CodePoint code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const size_t bytes = utf8_length(text.substr(at));
  if (bytes == 0) return {byte(0), 1, false};
  char32_t value = bytes == 1 ? byte(0) : byte(0) & (0xffu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) value = (value << 6) | (byte(i) & 0x3fu);
  return {value, bytes, true};
}

struct Span {
  char32_t first, last;
};

bool within(std::span<const Span> spans, char32_t c) {
  return std::any_of(spans.begin(), spans.end(),
                     [c](const Span& s) { return c >= s.first && c <= s.last; });
}

// Unicode blocks, coarser than the standard's tables: right for names and text that people read.
constexpr std::array<Span, 11> kWide{{{0x1100, 0x115f},
                                      {0x2e80, 0x303e},
                                      {0x3041, 0x33ff},
                                      {0x3400, 0x4dbf},
                                      {0x4e00, 0x9fff},
                                      {0xa000, 0xa4cf},
                                      {0xac00, 0xd7a3},
                                      {0xf900, 0xfaff},
                                      {0xfe30, 0xff60},
                                      {0x1f300, 0x1faff},
                                      {0x20000, 0x3fffd}}};
constexpr std::array<Span, 8> kZeroWidth{{{0x0300, 0x036f},
                                          {0x0483, 0x0489},
                                          {0x0591, 0x05bd},
                                          {0x1ab0, 0x1aff},
                                          {0x1dc0, 0x1dff},
                                          {0x200b, 0x200f},
                                          {0x20d0, 0x20ff},
                                          {0xfe00, 0xfe0f}}};
constexpr std::array<Span, 3> kDirection{{{0x200e, 0x200f}, {0x2028, 0x202e}, {0x2066, 0x2069}}};

bool is_control_point(char32_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); }

bool allowed_in_xml(const CodePoint& c) {
  if (!c.valid || c.value == 0xfffe || c.value == 0xffff) return false;
  return !is_control_point(c.value) || c.value == '\n' || c.value == '\t';
}

std::string escape_one(const CodePoint& c) {
  if (!c.valid) return fmt::format("\\x{:02x}", static_cast<uint32_t>(c.value));
  switch (c.value) {
    case '\n':
      return "\\n";
    case '\t':
      return "\\t";
    case '\r':
      return "\\r";
    default:
      break;
  }
  const auto value = static_cast<uint32_t>(c.value);
  return value < 0x80 ? fmt::format("\\x{:02x}", value) : fmt::format("\\u{:04x}", value);
}

}  // namespace

int display_width(std::string_view text) {
  int width = 0;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    at += c.bytes;
    if (is_control_point(c.value) || within(kZeroWidth, c.value)) continue;
    width += within(kWide, c.value) ? 2 : 1;
  }
  return width;
}

std::string escape_controls(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (!c.valid || is_control_point(c.value) || within(kDirection, c.value)) {
      out += escape_one(c);
    } else {
      out += text.substr(at, c.bytes);
    }
    at += c.bytes;
  }
  return out;
}

std::string escape_markup(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    switch (c.value) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += allowed_in_xml(c) ? text.substr(at, c.bytes) : "\xef\xbf\xbd";
        break;
    }
    at += c.bytes;
  }
  return out;
}

std::string shell_word(const std::string& word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace rwkv
