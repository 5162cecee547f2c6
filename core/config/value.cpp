#include "core/config/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/error.h"
#include "core/config/numbers.h"

namespace rwkv {
namespace {

constexpr std::string_view kPath = "PATH";
constexpr std::string_view kFraction = "FRACTION";

using Kind = YamlNode::Kind;

std::string got(const YamlNode& node) {
  switch (node.kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a section";
    case Kind::kScalar:
      break;
  }
  return (node.quoted ? "the text '" : "'") + printable(node.text) + "'";
}

std::string wrong(const Field& field, const YamlNode& node, std::string_view hint = "") {
  return fmt::format("expected {}, got {}{}", describe_values(field), got(node), hint);
}

bool in_range(const Range& range, double x) {
  return (range.min_open ? x > range.min : x >= range.min) &&
         (range.max_open ? x < range.max : x <= range.max);
}

bool is_fraction(double x) { return x > 0 && x < 1; }

std::string parse_integer_value(const Field& field, const YamlNode& node, Value& out) {
  if (node.kind != Kind::kScalar) return wrong(field, node);
  if (!field.allowed.empty() && node.text == field.allowed) {
    out = int64_t{0};
    return "";
  }
  if (node.quoted) {
    return wrong(field, node, looks_like_number(node.text) ? " (remove the quotes)" : "");
  }
  const auto number = parse_integer(node.text);
  if (!number) return wrong(field, node, integer_hint(node.text));
  if (!in_range(field.range, static_cast<double>(*number)) ||
      *number % field.range.multiple_of != 0) {
    return wrong(field, node);
  }
  out = *number;
  return "";
}

std::string parse_seed(const Field& field, const YamlNode& node, Value& out) {
  const bool plain = node.kind == Kind::kScalar && !node.quoted;
  const auto number = plain ? parse_unsigned(node.text) : std::nullopt;
  if (!number) return wrong(field, node, plain ? integer_hint(node.text) : "");
  out = *number;
  return "";
}

// A number in the field's range, or what is wrong.
std::string parse_real_item(const Field& field, const YamlNode& node, double& out) {
  if (node.kind != Kind::kScalar) return wrong(field, node);
  if (node.quoted) {
    return wrong(field, node, looks_like_number(node.text) ? " (remove the quotes)" : "");
  }
  const auto number = parse_real(node.text);
  if (!number || !in_range(field.range, *number)) return wrong(field, node);
  out = *number + 0.0;  // -0 becomes 0
  return "";
}

std::string parse_reals(const Field& field, const YamlNode& node, Value& out) {
  if (node.kind != Kind::kList) return wrong(field, node);
  if (node.items.size() != 2) {
    return wrong(field, node, fmt::format(" of {}", node.items.size()));
  }
  std::array<double, 2> both{};
  for (size_t i = 0; i < 2; ++i) {
    std::string error = parse_real_item(field, node.items[i], both[i]);
    if (!error.empty()) return error;
  }
  out = both;
  return "";
}

std::string parse_flag(const Field& field, const YamlNode& node, Value& out) {
  const bool plain = node.kind == Kind::kScalar && !node.quoted;
  if (!plain || (node.text != "true" && node.text != "false")) return wrong(field, node);
  out = node.text == "true";
  return "";
}

bool takes_fraction(const Field& field) {
  return field.allowed.find(kFraction) != std::string_view::npos;
}

bool matches(std::string_view alternative, std::string_view text) {
  if (!alternative.ends_with(kPath)) return text == alternative;
  const std::string_view prefix = alternative.substr(0, alternative.size() - kPath.size());
  return text.size() > prefix.size() && text.starts_with(prefix);
}

std::string parse_text_item(const Field& field, const YamlNode& node, std::string& out) {
  if (node.kind != Kind::kScalar || !is_clean_text(node.text)) return wrong(field, node);
  // YAML knows these as truth values; a path of that name is put in quotes.
  if (!node.quoted && (node.text == "true" || node.text == "false")) return wrong(field, node);
  for (std::string_view alternative : alternatives(field.allowed)) {
    if (alternative == kFraction) {
      if (node.quoted || !looks_like_number(node.text)) continue;
      const auto number = parse_real(node.text);
      if (!number || !is_fraction(*number)) return wrong(field, node);
      out = fmt::format("{}", *number);
      return "";
    }
    if (matches(alternative, node.text)) {
      out = field.none_is_empty && node.text == "none" ? "" : node.text;
      // A path in quotes that looks like a fraction must not be taken for one later.
      const bool like_fraction = takes_fraction(field) && looks_like_number(out);
      if (like_fraction) out = "./" + out;
      return "";
    }
  }
  return wrong(field, node);
}

std::string parse_texts(const Field& field, const YamlNode& node, Value& out) {
  if (node.kind != Kind::kList || node.items.empty()) return wrong(field, node);
  std::vector<std::string> texts(node.items.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string error = parse_text_item(field, node.items[i], texts[i]);
    if (!error.empty()) return error;
  }
  out = std::move(texts);
  return "";
}

std::string describe_range(const Range& range, std::string_view noun) {
  std::string out(noun);
  if (range.multiple_of != 1) out = fmt::format("a multiple of {}", range.multiple_of);
  const bool low = std::isfinite(range.min), high = std::isfinite(range.max);
  // Integers as they are, whatever their size; fmt would write large doubles with an exponent.
  const auto text = [](double x) {
    return std::trunc(x) == x && std::abs(x) < 1e15 ? fmt::format("{:.0f}", x)
                                                    : fmt::format("{}", x);
  };
  if (low && high && !range.min_open && !range.max_open) {
    return out + fmt::format(" from {} to {}", text(range.min), text(range.max));
  }
  if (low) out += fmt::format(" {} {}", range.min_open ? ">" : ">=", text(range.min));
  if (low && high) out += " and";
  if (high) out += fmt::format(" {} {}", range.max_open ? "<" : "<=", text(range.max));
  return out;
}

std::string describe_texts(const Field& field) {
  std::string words;
  for (std::string_view alternative : alternatives(field.allowed)) {
    if (!words.empty()) words += " | ";
    if (alternative == kPath) {
      words += "a path";
    } else {
      words += alternative == kFraction ? "a fraction > 0 and < 1" : alternative;
    }
  }
  return words;
}

}  // namespace

std::string parse_value(const Field& field, const YamlNode& node, Value& out) {
  switch (field.type) {
    case FieldType::kInteger:
      return parse_integer_value(field, node, out);
    case FieldType::kSeed:
      return parse_seed(field, node, out);
    case FieldType::kReals2:
      return parse_reals(field, node, out);
    case FieldType::kFlag:
      return parse_flag(field, node, out);
    case FieldType::kTexts:
      return parse_texts(field, node, out);
    case FieldType::kReal: {
      double number = 0;
      std::string error = parse_real_item(field, node, number);
      out = number;
      return error;
    }
    case FieldType::kText: {
      std::string text;
      std::string error = parse_text_item(field, node, text);
      out = std::move(text);
      return error;
    }
  }
  return "internal: unknown type";
}

Value default_value(const Field& field) {
  Value value = int64_t{0};
  if (field.fallback.empty()) return value;
  const std::string error = parse_value(field, parse_yaml(field.fallback, field.name), value);
  require(error.empty(), fmt::format("default of {}: {}", field.name, error));
  return value;
}

Value get_value(const Field& field, Recipe& recipe) {
  return std::visit(
      [&](const auto& place) -> Value {
        using P = std::decay_t<decltype(place)>;
        if constexpr (std::is_same_v<P, std::monostate>) {
          return default_value(field);
        } else if constexpr (std::is_pointer_v<P>) {
          return place(recipe);
        } else {
          return std::array<double, 2>{place.first(recipe), place.second(recipe)};
        }
      },
      field.place);
}

void set_value(const Field& field, const Value& value, Recipe& recipe) {
  std::visit(
      [&](const auto& place) {
        using P = std::decay_t<decltype(place)>;
        if constexpr (std::is_pointer_v<P>) {
          using T = std::decay_t<decltype(place(recipe))>;
          place(recipe) = std::get<T>(value);
        } else if constexpr (!std::is_same_v<P, std::monostate>) {
          const auto& both = std::get<std::array<double, 2>>(value);
          place.first(recipe) = both[0];
          place.second(recipe) = both[1];
        }
      },
      field.place);
}

std::string value_text(const Field& field, const Value& value) {
  return std::visit(
      [&](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, int64_t>) {
          return v == 0 && !field.allowed.empty() ? std::string(field.allowed) : std::to_string(v);
        } else if constexpr (std::is_same_v<T, std::string>) {
          if (v.empty() && field.none_is_empty) return "none";
          return takes_fraction(field) && looks_like_number(v) ? v : yaml_scalar(v);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          return fmt::format("[{}]", fmt::join(v, ", "));
        } else if constexpr (std::is_same_v<T, std::array<double, 2>>) {
          return fmt::format("[{}, {}]", v[0], v[1]);
        } else {
          return fmt::format("{}", v);
        }
      },
      value);
}

std::string describe_values(const Field& field) {
  const std::string word = field.allowed.empty() ? "" : std::string(field.allowed) + " or ";
  switch (field.type) {
    case FieldType::kInteger:
      return word + describe_range(field.range, "an integer");
    case FieldType::kSeed:
      return "an integer from 0 to 18446744073709551615";
    case FieldType::kReal:
      return describe_range(field.range, "a number");
    case FieldType::kReals2:
      return "a list of two, each " + describe_range(field.range, "a number");
    case FieldType::kFlag:
      return "true | false";
    case FieldType::kText:
      return describe_texts(field);
    case FieldType::kTexts:
      return "a list, each " + describe_texts(field);
  }
  return "";
}

std::string describe_missing(const Field& field, const Value& value) {
  if (field.built.empty()) return "";
  const std::vector<std::string_view> built = alternatives(field.built);
  const auto exists = [&](const std::string& text) {
    return std::find(built.begin(), built.end(), text) != built.end();
  };
  const auto* texts = std::get_if<std::vector<std::string>>(&value);
  const bool all = texts != nullptr ? std::all_of(texts->begin(), texts->end(), exists)
                                    : exists(value_text(field, value));
  return all ? "" : fmt::format("not yet: only {} is built so far", join_or(built));
}

size_t path_offset(const Field& field, std::string_view text) {
  for (std::string_view alternative : alternatives(field.allowed)) {
    const bool path = alternative.ends_with(kPath);
    if (path && matches(alternative, text)) return alternative.size() - kPath.size();
    if (!path && text == alternative) return std::string_view::npos;
    if (alternative == kFraction && looks_like_number(text)) return std::string_view::npos;
  }
  return std::string_view::npos;
}

}  // namespace rwkv
