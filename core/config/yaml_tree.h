// YAML text as a small tree that remembers where everything stands. Stricter than YAML: one
// document; no anchors, aliases or tags; keys are plain scalars.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv {

struct YamlNode {
  enum class Kind : uint8_t { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  int line = 1, column = 1;  // of its first byte, from 1
  std::string text;          // scalars: as written, without quotes
  bool quoted = false;       // scalars: 'x', "x" or a block scalar; always a text
  // Lists: the items. Maps: key, value, key, value, in the file's order, duplicates included.
  std::vector<YamlNode> items;
};

// Most bytes and nodes of a recipe, and how deep it may nest.
inline constexpr size_t kMaxRecipeBytes = 1 << 20;
inline constexpr int kMaxYamlNodes = 10000;
inline constexpr size_t kMaxYamlDepth = 16;

// Parses `text`. Empty text gives a kNull node. Throws InputError, one line `<where>:line:column:
// ...`, or `<where>: ...` when `with_position` is false, for everything that is no such document:
// syntax errors, bytes that are not UTF-8, control characters, too much of anything.
YamlNode parse_yaml(std::string_view text, std::string_view where, bool with_position = true);

// Text for a message: control characters and bytes that are not UTF-8 replaced, cut after `most`
// bytes.
std::string printable(std::string_view text, size_t most = 80);

// Whether a text is UTF-8 without control characters.
bool is_clean_text(std::string_view);

// A text as a YAML scalar that parses back to it, in quotes when it needs them.
std::string yaml_scalar(std::string_view text);

}  // namespace rwkv
