// What the field table says about itself: the reference page, the JSON schema, the help text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/config/fields.h"
#include "core/config/load.h"
#include "core/config/value.h"

namespace rwkv {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kIntroduction =
    R"(# Recipe keys

<!-- Generated from the field table in core/config; do not edit. -->

A recipe is a YAML file; `rwkv-dist RECIPE.yaml` trains it and `rwkv-dist check RECIPE.yaml` looks
at it without training. Any key can be overridden on the command line by its dotted path, the value
written as YAML: `rwkv-dist recipes/base.yaml train.steps=200 optimizer.betas=[0.9,0.95]`. When a
key is overridden twice, the last one counts; overriding `train.steps` removes `train.tokens` and
the reverse. Every run writes all its keys to `config.yaml` in its run folder, which is a recipe too.

Lengths are in tokens, batches in sequences of the whole job, intervals in steps (updates), times in
seconds. Relative paths start from the recipe's folder, those of overrides, `run.dir` and
`run.resume` from the working directory. Numbers are decimal without leading zeros; integers have
neither point nor exponent.

A mistake (unknown, duplicate or missing key, wrong type, value out of range, keys that conflict)
ends the program with exit code 88 and one line that says where it stands, which key it is about and
what is allowed, before anything is created. Keys marked *not yet* are known, but only the values
named there work so far; others are refused in the same way.
)";

bool required(const Field& field) { return field.fallback.empty(); }

// '|' ends a cell of a table.
std::string cell(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string built_note(const Field& field) {
  if (field.built.empty()) return "";
  return fmt::format("not yet: only {} so far", join_or(alternatives(field.built)));
}

std::string_view top_section(const Field& field) {
  const size_t dot = field.name.find('.');
  return dot == std::string_view::npos ? std::string_view() : field.name.substr(0, dot);
}

std::string first_upper(std::string_view text) {
  std::string out(text);
  if (!out.empty() && out[0] >= 'a' && out[0] <= 'z') out[0] = static_cast<char>(out[0] - 32);
  return out;
}

Json number_schema(const Field& field, std::string_view type) {
  Json schema{{"type", type}};
  const bool integer = type == "integer";
  const auto bound = [&](double x) { return integer ? Json(std::llround(x)) : Json(x); };
  const Range& range = field.range;
  if (std::isfinite(range.min)) {
    schema[range.min_open ? "exclusiveMinimum" : "minimum"] = bound(range.min);
  }
  if (std::isfinite(range.max)) {
    schema[range.max_open ? "exclusiveMaximum" : "maximum"] = bound(range.max);
  }
  if (range.multiple_of != 1) schema["multipleOf"] = range.multiple_of;
  return schema;
}

Json text_schema(const Field& field) {
  Json words = Json::array(), others = Json::array();
  for (std::string_view alternative : alternatives(field.allowed)) {
    if (alternative == "FRACTION") {
      others.push_back({{"type", "number"}, {"exclusiveMinimum", 0}, {"exclusiveMaximum", 1}});
    } else if (alternative == "PATH") {
      others.push_back({{"type", "string"}, {"minLength", 1}});
    } else if (alternative.ends_with("PATH")) {
      const std::string_view prefix = alternative.substr(0, alternative.size() - 4);
      others.push_back({{"type", "string"}, {"pattern", fmt::format("^{}.+", prefix)}});
    } else {
      words.push_back(alternative);
    }
  }
  if (others.empty()) return {{"enum", words}};
  if (!words.empty()) others.insert(others.begin(), Json{{"enum", words}});
  return others.size() == 1 ? others[0] : Json{{"anyOf", others}};
}

Json type_schema(const Field& field) {
  switch (field.type) {
    case FieldType::kInteger: {
      Json number = number_schema(field, "integer");
      if (field.allowed.empty()) return number;
      return {{"anyOf", Json::array({Json{{"const", field.allowed}}, number})}};
    }
    case FieldType::kSeed:
      return {{"type", "integer"}, {"minimum", 0}};
    case FieldType::kReal:
      return number_schema(field, "number");
    case FieldType::kReals2:
      return {{"type", "array"},
              {"items", number_schema(field, "number")},
              {"minItems", 2},
              {"maxItems", 2}};
    case FieldType::kFlag:
      return {{"type", "boolean"}};
    case FieldType::kText:
      return text_schema(field);
    case FieldType::kTexts:
      return {{"type", "array"}, {"items", text_schema(field)}, {"minItems", 1}};
  }
  return Json::object();
}

Json default_schema(const Field& field) {
  const Value value = default_value(field);
  if (const auto* number = std::get_if<int64_t>(&value)) {
    if (*number == 0 && !field.allowed.empty()) return field.allowed;
  }
  if (std::holds_alternative<std::string>(value)) return field.fallback;
  return std::visit([](const auto& v) { return Json(v); }, value);
}

Json key_schema(const Field& field) {
  Json schema = type_schema(field);
  const std::string note = built_note(field);
  schema["description"] = std::string(field.doc) + (note.empty() ? "" : " (" + note + ")");
  if (!required(field)) schema["default"] = default_schema(field);
  return schema;
}

Json section_schema() {
  return {{"type", "object"}, {"additionalProperties", false}, {"properties", Json::object()}};
}

// The section's schema inside `root`, made when it is not there yet.
Json& open_section(Json& root, std::string_view name) {
  if (name.empty()) return root;
  Json& properties = open_section(root, section_of(name))["properties"];
  const std::string key(last_part(name));
  if (!properties.contains(key)) properties[key] = section_schema();
  return properties[key];
}

}  // namespace

std::string recipe_markdown() {
  std::string out(kIntroduction);
  std::string_view section = "-";
  for (const Field& field : recipe_fields()) {
    if (top_section(field) != section) {
      section = top_section(field);
      out += fmt::format("\n## {}\n\n| key | values | default | meaning |\n|---|---|---|---|\n",
                         section.empty() ? "Precision" : first_upper(section));
    }
    const std::string fallback =
        required(field) ? "required" : fmt::format("`{}`", cell(field.fallback));
    const std::string note = built_note(field);
    out += fmt::format("| `{}` | {} | {} | {}{} |\n", field.name, cell(describe_values(field)),
                       fallback, cell(field.doc), note.empty() ? "" : "; *" + note + "*");
  }
  return out;
}

std::string recipe_json_schema() {
  Json root = section_schema();
  for (const Field& field : recipe_fields()) {
    const std::string_view section = section_of(field.name);
    const std::string key(last_part(field.name));
    open_section(root, section)["properties"][key] = key_schema(field);
    if (!required(field)) continue;
    open_section(root, section)["required"].push_back(key);
    Json& upper = open_section(root, section_of(section))["required"];
    const std::string name(last_part(section));
    if (std::find(upper.begin(), upper.end(), name) == upper.end()) upper.push_back(name);
  }
  Json schema{{"$schema", "https://json-schema.org/draft/2020-12/schema"},
              {"title", "rwkv-dist recipe"}};
  schema.update(root);
  return schema.dump(2) + "\n";
}

std::string recipe_help() {
  std::string out = "Recipe keys (override any of them: key=value), [default]:\n";
  std::string_view section = "-";
  for (const Field& field : recipe_fields()) {
    if (top_section(field) != section) out += "\n";
    section = top_section(field);
    const std::string note = built_note(field);
    out += fmt::format("  {:<27} {} [{}]\n      {}{}\n", field.name, describe_values(field),
                       required(field) ? "required" : field.fallback, field.doc,
                       note.empty() ? "" : "; " + note);
  }
  return out;
}

std::vector<std::string> recipe_keys() {
  std::vector<std::string> keys;
  for (const Field& field : recipe_fields()) keys.emplace_back(field.name);
  return keys;
}

}  // namespace rwkv
