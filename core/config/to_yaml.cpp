#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "core/config/fields.h"
#include "core/config/given.h"
#include "core/config/load.h"
#include "core/config/value.h"

namespace rwkv {
namespace {

Value value_to_print(const Field& field, Recipe& recipe) {
  Value value = get_value(field, recipe);
  // When tokens are given, steps follow from them; a recipe gives one of the two.
  if (field.name == "train.steps" && recipe.train.tokens != 0) return int64_t{0};
  if (auto* text = std::get_if<std::string>(&value)) {
    const size_t offset = path_offset(field, *text);
    if (offset != std::string_view::npos) {
      *text = text->substr(0, offset) + resolve_path(text->substr(offset), "");
    }
  }
  return value;
}

// Headings for those levels of `own` that `last`, the section of the key before, is not in.
std::string headings(std::string_view own, std::string_view last) {
  std::string out, indent;
  for (size_t begin = 0; begin < own.size();) {
    const size_t end = std::min(own.find('.', begin), own.size());
    const std::string_view upper = own.substr(0, end);
    const bool open = last == upper || last.starts_with(std::string(upper) + '.');
    if (!open) out += fmt::format("{}{}:\n", indent, own.substr(begin, end - begin));
    indent += "  ";
    begin = end + 1;
  }
  return out;
}

}  // namespace

std::string to_yaml(const Recipe& recipe) {
  Recipe source = recipe;
  std::string out;
  std::string_view section;
  for (const Field& field : recipe_fields()) {
    const Value value = value_to_print(field, source);
    // A required key that is not there: the recipe of a source that is not trained. A head size
    // that weights will give.
    const bool may_lack = field.fallback.empty() || field.name == "model.head_size";
    if (may_lack && std::get<int64_t>(value) == 0) continue;
    const std::string_view own = section_of(field.name);
    out += headings(own, section);
    section = own;
    const auto depth = static_cast<size_t>(std::count(field.name.begin(), field.name.end(), '.'));
    out += fmt::format("{}{}: {}\n", std::string(2 * depth, ' '), last_part(field.name),
                       value_text(field, value));
  }
  return out;
}

}  // namespace rwkv
