#include "core/data/world_tokenizer.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <unordered_map>

#include "core/base/error.h"

namespace rwkv {
namespace {

constexpr int32_t kVocab = 65536;

template <class Number>
std::optional<Number> parse_number(std::string_view text, int base = 10) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void append_utf8(std::string& out, uint32_t point) {
  const auto tail = [&](int shift) {
    out += static_cast<char>(0x80u | ((point >> shift) & 0x3fu));
  };
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += static_cast<char>(0xc0u | (point >> 6));
    tail(0);
  } else if (point < 0x10000) {
    out += static_cast<char>(0xe0u | (point >> 12));
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xf0u | (point >> 18));
    tail(12), tail(6), tail(0);
  }
}

// Reads the escape that follows a backslash at the front of `rest`, and removes it from there. In a
// str \xNN is a code point, in a bytes object it is the byte itself. False: not an escape.
bool read_escape(std::string_view& rest, bool is_bytes, std::string& out) {
  if (rest.empty()) return false;
  const char kind = rest.front();
  rest.remove_prefix(1);
  constexpr std::string_view kPlain = "tnr\\'\"", kMeaning = "\t\n\r\\'\"";
  if (const size_t at = kPlain.find(kind); at != std::string_view::npos) {
    out += kMeaning[at];
    return true;
  }
  size_t digits = 0;
  if (kind == 'x') digits = 2;
  if (kind == 'u' && !is_bytes) digits = 4;
  if (kind == 'U' && !is_bytes) digits = 8;
  if (digits == 0 || rest.size() < digits) return false;
  const auto point = parse_number<uint32_t>(rest.substr(0, digits), 16);
  if (!point || *point > 0x10ffff) return false;
  rest.remove_prefix(digits);
  if (is_bytes) {
    out += static_cast<char>(*point);
  } else {
    append_utf8(out, *point);
  }
  return true;
}

// The bytes that a Python literal stands for: 'text', "text", b'bytes' or b"bytes".
std::optional<std::string> read_literal(std::string_view literal) {
  const bool is_bytes = literal.starts_with('b');
  if (is_bytes) literal.remove_prefix(1);
  if (literal.size() < 2) return std::nullopt;
  const char quote = literal.front();
  if ((quote != '\'' && quote != '"') || literal.back() != quote) return std::nullopt;
  std::string_view rest = literal.substr(1, literal.size() - 2);
  std::string out;
  while (!rest.empty()) {
    const char c = rest.front();
    rest.remove_prefix(1);
    if (c == '\\') {
      if (!read_escape(rest, is_bytes, out)) return std::nullopt;
    } else if (c == quote) {
      return std::nullopt;
    } else {
      out += c;
    }
  }
  return out;
}

class WorldTokenizer final : public Tokenizer {
 public:
  WorldTokenizer() : texts_(kVocab), tokens_(1, kEndToken) {}

  int64_t vocab() const override { return kVocab; }

  // False when the id or the text is taken, or either is not legal.
  bool add(int32_t id, std::string text) {
    if (id <= 0 || id >= kVocab || text.empty() || !texts_[static_cast<size_t>(id)].empty()) {
      return false;
    }
    uint32_t node = 0;
    for (const char c : text) {
      const auto [edge, is_new] =
          edges_.try_emplace(edge_key(node, c), static_cast<uint32_t>(tokens_.size()));
      if (is_new) tokens_.push_back(kEndToken);
      node = edge->second;
    }
    if (tokens_[node] != kEndToken) return false;
    tokens_[node] = id;
    texts_[static_cast<size_t>(id)] = std::move(text);
    return true;
  }

  bool has_every_byte() const {
    for (int byte = 0; byte < 256; ++byte) {
      const auto edge = edges_.find(edge_key(0, static_cast<char>(byte)));
      if (edge == edges_.end() || tokens_[edge->second] == kEndToken) return false;
    }
    return true;
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> out;
    while (!text.empty()) {
      int32_t token = kEndToken;
      size_t length = 1;
      uint32_t node = 0;
      for (size_t i = 0; i < text.size(); ++i) {
        const auto edge = edges_.find(edge_key(node, text[i]));
        if (edge == edges_.end()) break;
        node = edge->second;
        if (tokens_[node] != kEndToken) token = tokens_[node], length = i + 1;
      }
      out.push_back(token);
      text.remove_prefix(length);
    }
    return out;
  }

  std::string decode(std::span<const int32_t> tokens) const override {
    std::string out;
    for (const int32_t token : tokens) {
      if (token == kEndToken) continue;
      const bool known = token > 0 && token < kVocab && !texts_[static_cast<size_t>(token)].empty();
      out += known ? std::string_view(texts_[static_cast<size_t>(token)]) : kNoText;
    }
    return out;
  }

 private:
  static uint64_t edge_key(uint32_t node, char c) {
    return uint64_t{node} << 8 | static_cast<unsigned char>(c);
  }

  std::vector<std::string> texts_;                // by id
  std::vector<int32_t> tokens_;                   // by node of the trie; kEndToken: none ends here
  std::unordered_map<uint64_t, uint32_t> edges_;  // (node, byte) to node
};

// "ID LITERAL BYTES"; the literal may hold spaces.
bool add_line(std::string_view line, WorldTokenizer& tokenizer) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return false;
  const auto id = parse_number<int32_t>(line.substr(0, first));
  const auto length = parse_number<uint64_t>(line.substr(last + 1));
  auto text = read_literal(line.substr(first + 1, last - first - 1));
  if (!id || !length || !text || text->size() != *length) return false;
  return tokenizer.add(*id, std::move(*text));
}

}  // namespace

std::unique_ptr<Tokenizer> make_world_tokenizer(std::string_view content, const std::string& path) {
  auto tokenizer = std::make_unique<WorldTokenizer>();
  for (int64_t number = 1; !content.empty(); ++number) {
    const size_t end = content.find('\n');
    std::string_view line = content.substr(0, end);
    content.remove_prefix(end == std::string_view::npos ? content.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    if (!add_line(line, *tokenizer)) {
      throw InputError(fmt::format(
          "{}:{}: expected \"ID LITERAL BYTES\" with an id in 1..{} and a text that no line before "
          "has, and the text's length in bytes",
          path, number, kVocab - 1));
    }
  }
  if (!tokenizer->has_every_byte()) {
    throw InputError(fmt::format("{}: a vocabulary needs a token for each of the 256 bytes", path));
  }
  return tokenizer;
}

}  // namespace rwkv
