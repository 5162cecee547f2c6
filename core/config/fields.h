// The field table: one row per recipe key. Parsing, overrides, defaults, to_yaml, help text, the
// reference page and the JSON schema all come from it.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/config/recipe.h"

namespace rwkv {

enum class FieldType : uint8_t {
  kInteger,  // int64_t in `range`, or a word of `allowed`, which is stored as 0
  kSeed,     // uint64_t
  kReal,     // finite double in `range`
  kReals2,   // [double, double], both in `range`
  kFlag,     // true | false
  kText,     // one alternative of `allowed`
  kTexts,    // a list, not empty, of alternatives of `allowed`
};

// What a relative path written in the recipe starts from. Overrides: always the working directory.
enum class PathBase : uint8_t { kRecipeFolder, kWorkingFolder };

struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();  // infinity: as far as the type goes
  bool min_open = false, max_open = false;
  int64_t multiple_of = 1;  // integers only
};

// A key's value, in the form that its place in Recipe has.
using Value = std::variant<int64_t, uint64_t, double, bool, std::string, std::vector<std::string>,
                           std::array<double, 2>>;

template <class T>
using Accessor = T& (*)(Recipe&);

// Where in Recipe the value lives; monostate: nowhere yet.
using Place =
    std::variant<std::monostate, Accessor<int64_t>, Accessor<uint64_t>, Accessor<double>,
                 Accessor<bool>, Accessor<std::string>, Accessor<std::vector<std::string>>,
                 std::pair<Accessor<double>, Accessor<double>>>;

// Alternatives of `allowed` and `built` are separated by '|'. In those of a text, upper case stands
// for a class: PATH, PREFIX:PATH, FRACTION (a number between 0 and 1, both excluded).
struct Field {
  std::string_view name = {};  // dotted path
  FieldType type = FieldType::kText;
  std::string_view allowed = {};   // texts: all alternatives; integers: the word that stands for 0
  Range range = {};                // numbers
  std::string_view fallback = {};  // default as YAML; empty: the key is required for training
  std::string_view built = {};     // values whose feature exists; empty: all
  std::string_view doc = {};
  Place place = {};
  PathBase base = PathBase::kRecipeFolder;
  bool none_is_empty = false;  // the word none is stored as ""
};

// In the order of the documentation; keys of a section stand together.
std::span<const Field> recipe_fields();

// nullptr when there is none of that name.
const Field* find_field(std::string_view name);

// Whether `name` is a section, that is, a proper prefix of some key ("model", "model.lora_rank").
bool is_section(std::string_view name);

// Names one level below a section; "" gives the top level. In the table's order.
std::vector<std::string> names_in_section(std::string_view section);

// The known key or section that looks most like `name`.
std::string nearest_name(std::string_view name);

// "a|b" -> {"a", "b"}; "" -> {}.
std::vector<std::string_view> alternatives(std::string_view);

// {"a", "b", "c"} -> "a, b or c".
std::string join_or(std::span<const std::string_view>);

// "model.lora_rank.gate" -> "model.lora_rank"; "precision" -> "".
std::string_view section_of(std::string_view name);
std::string_view last_part(std::string_view name);

}  // namespace rwkv
