#include "core/config/given.h"

#include <fmt/format.h>

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <variant>

#include "core/base/error.h"
#include "core/config/value.h"

namespace rwkv {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxWhere = 200;  // bytes of a path or an override in a message

[[noreturn]] void fail_at(std::string_view where, std::string_view key, std::string_view what) {
  throw InputError(fmt::format("{}: {}: {}", where, key, what));
}

std::string unknown_key(std::string_view name) {
  const std::string_view section = section_of(name);
  const bool known_section = section.empty() || is_section(section);
  std::string allowed;
  if (known_section) {
    allowed = fmt::format(" ({}: {})", section.empty() ? "known" : section,
                          fmt::join(names_in_section(section), ", "));
  }
  return fmt::format("unknown key, did you mean '{}'?{}", nearest_name(name), allowed);
}

std::string joined(std::string_view section, std::string_view key) {
  return section.empty() ? std::string(key) : fmt::format("{}.{}", section, key);
}

// Paths inside a value become absolute.
void resolve_paths(const Field& field, const std::string& folder, Value& value) {
  auto* text = std::get_if<std::string>(&value);
  if (text == nullptr) return;
  const size_t offset = path_offset(field, *text);
  if (offset == std::string_view::npos) return;
  *text = text->substr(0, offset) + resolve_path(text->substr(offset), folder);
}

}  // namespace

std::string resolve_path(const std::string& path, const std::string& folder) {
  std::error_code error;
  const fs::path whole = fs::absolute(fs::path(folder) / path, error);
  if (error) throw InputError(fmt::format("{}: {}", printable(path), error.message()));
  std::string out = whole.lexically_normal().string();
  if (out.size() > 1 && out.ends_with('/')) out.pop_back();
  if (!is_clean_text(out)) {
    throw InputError(fmt::format("'{}': a path must be UTF-8 without control characters",
                                 printable(out, kMaxWhere)));
  }
  return out;
}

GivenKeys::GivenKeys(std::string path) : path_(std::move(path)) {
  if (path_.empty()) path_ = "recipe";
}

std::string GivenKeys::position(const YamlNode& node) const {
  return fmt::format("{}:{}:{}", printable(path_, kMaxWhere), node.line, node.column);
}

void GivenKeys::read_file(std::string_view text) {
  const YamlNode root = parse_yaml(text, path_);
  if (root.kind == YamlNode::Kind::kNull) return;
  if (root.kind != YamlNode::Kind::kMap) {
    throw InputError(position(root) + ": a recipe is made of 'key: value' lines");
  }
  read_section(root, "");
}

void GivenKeys::read_section(const YamlNode& map, const std::string& section) {
  std::unordered_map<std::string, int> lines;
  for (size_t i = 0; i + 1 < map.items.size(); i += 2) {
    const YamlNode& key = map.items[i];
    const auto [first, is_new] = lines.emplace(key.text, key.line);
    const std::string name = joined(section, key.text);
    if (!is_new) {
      fail_at(position(key), printable(name),
              fmt::format("duplicate key, first on line {}", first->second));
    }
    read_key(key, map.items[i + 1], name);
  }
}

void GivenKeys::read_key(const YamlNode& key, const YamlNode& value, const std::string& name) {
  const std::string where = position(key);
  const bool dotted = key.text.find('.') != std::string::npos;
  if (dotted && (find_field(name) != nullptr || is_section(name))) {
    fail_at(where, name,
            fmt::format("in a recipe this is '{}:' indented below '{}:'", last_part(name),
                        section_of(name)));
  }
  if (is_section(name)) {
    if (value.kind != YamlNode::Kind::kMap) {
      fail_at(where, name,
              fmt::format("is a section: expected {} below it",
                          fmt::join(names_in_section(name), ", ")));
    }
    sections_.emplace(name, where);
    read_section(value, name);
    return;
  }
  const Field* field = find_field(name);
  if (field == nullptr) fail_at(where, printable(name), unknown_key(name));
  read_value(*field, value, where, true);
}

void GivenKeys::read_value(const Field& field, const YamlNode& node, const std::string& where,
                           bool from_file) {
  Value value;
  const std::string error = parse_value(field, node, value);
  if (!error.empty()) fail_at(where, field.name, error);
  const bool at_file = from_file && field.base == PathBase::kRecipeFolder;
  resolve_paths(field, at_file ? fs::path(path_).parent_path().string() : "", value);
  entries_.insert_or_assign(&field, Entry{std::move(value), where});
}

void GivenKeys::apply_override(const std::string& text) {
  const std::string where = printable(text, kMaxWhere);
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw InputError(where + ": expected key=value, for example train.steps=100");
  }
  const std::string name = text.substr(0, equals);
  if (is_section(name)) {
    fail_at(where, name,
            fmt::format("is a section: override its keys one by one, {}.{}=...", name,
                        names_in_section(name).front()));
  }
  const Field* field = find_field(name);
  if (field == nullptr) fail_at(where, printable(name), unknown_key(name));
  const YamlNode node = parse_yaml(std::string_view(text).substr(equals + 1), where, false);
  read_value(*field, node, where, false);
  const auto remove_for = [&](std::string_view given, std::string_view other) {
    if (name == given && node.text != "none") entries_.erase(find_field(other));
  };
  remove_for("train.steps", "train.tokens");
  remove_for("train.tokens", "train.steps");
}

const GivenKeys::Entry* GivenKeys::find(std::string_view key) const {
  const auto entry = entries_.find(find_field(key));
  return entry == entries_.end() ? nullptr : &entry->second;
}

void GivenKeys::fail(std::span<const std::string_view> keys, std::string_view what) const {
  for (std::string_view key : keys) {
    if (const Entry* entry = find(key)) fail_at(entry->where, key, what);
  }
  // A section that is there shows where the key belongs.
  const auto section = sections_.find(std::string(section_of(keys.front())));
  fail_at(section != sections_.end() ? section->second : position(YamlNode{}), keys.front(), what);
}

void GivenKeys::fail(std::string_view key, std::string_view what) const {
  fail(std::span(&key, 1), what);
}

}  // namespace rwkv
