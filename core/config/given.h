// The keys that a recipe and its overrides give, with their values and where they stand.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "core/config/fields.h"
#include "core/config/yaml_tree.h"

namespace rwkv {

class GivenKeys {
 public:
  struct Entry {
    Value value;
    std::string where;  // "recipe.yaml:12:3", or the override's text
  };

  // `path` as in messages; paths written in the file start from its folder.
  explicit GivenKeys(std::string path);

  // Reads a whole recipe: every node is looked at. Throws InputError at the first mistake.
  void read_file(std::string_view text);

  // Applies one `key=value`. Steps and tokens remove one another.
  void apply_override(const std::string& text);

  const Entry* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  // Throws InputError "<where>: <key>: <what>", where being that of the first of `keys` that is
  // given, or the place in the file where it would stand.
  [[noreturn]] void fail(std::span<const std::string_view> keys, std::string_view what) const;
  [[noreturn]] void fail(std::string_view key, std::string_view what) const;

 private:
  void read_section(const YamlNode& map, const std::string& section);
  void read_key(const YamlNode& key, const YamlNode& value, const std::string& name);
  void read_value(const Field&, const YamlNode&, const std::string& where, bool from_file);
  std::string position(const YamlNode&) const;

  std::string path_;
  std::unordered_map<const Field*, Entry> entries_;
  std::unordered_map<std::string, std::string> sections_;  // name -> where
};

// An absolute path without "." and "..": `path` seen from `folder` ("": the working directory).
// Throws InputError when it is not text that a recipe can hold.
std::string resolve_path(const std::string& path, const std::string& folder);

}  // namespace rwkv
