// Look-ups by name in the field table.
#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/fields.h"

namespace rwkv {
namespace {

// Longer names are compared by their beginning: a mistake in a name shows there, and the cost stays
// bounded whatever the file holds.
constexpr size_t kCompared = 64;

// Levenshtein distance, a swap of two neighbours counting once.
size_t edit_distance(std::string_view a, std::string_view b) {
  a = a.substr(0, kCompared);
  b = b.substr(0, kCompared);
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        now[j] = std::min(now[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

bool below(std::string_view name, std::string_view section) {
  return section.empty() ||
         (name.size() > section.size() && name.starts_with(section) && name[section.size()] == '.');
}

std::vector<std::string_view> all_names() {
  std::vector<std::string_view> names;
  for (const Field& field : recipe_fields()) {
    for (size_t dot = field.name.find('.'); dot != std::string_view::npos;
         dot = field.name.find('.', dot + 1)) {
      const std::string_view section = field.name.substr(0, dot);
      if (std::find(names.begin(), names.end(), section) == names.end()) names.push_back(section);
    }
    names.push_back(field.name);
  }
  return names;
}

}  // namespace

const Field* find_field(std::string_view name) {
  for (const Field& field : recipe_fields()) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

bool is_section(std::string_view name) {
  const auto fields = recipe_fields();
  return !name.empty() && std::any_of(fields.begin(), fields.end(),
                                      [&](const Field& field) { return below(field.name, name); });
}

std::vector<std::string> names_in_section(std::string_view section) {
  std::vector<std::string> names;
  for (const Field& field : recipe_fields()) {
    if (!below(field.name, section)) continue;
    const std::string_view rest = field.name.substr(section.empty() ? 0 : section.size() + 1);
    const std::string name(rest.substr(0, rest.find('.')));
    if (names.empty() || names.back() != name) names.push_back(name);
  }
  return names;
}

std::string nearest_name(std::string_view name) {
  std::string_view best;
  size_t best_distance = std::numeric_limits<size_t>::max();
  for (std::string_view known : all_names()) {
    // The right name in the wrong section is as good a guess as one with a slip of the finger.
    const size_t moved = section_of(known) == section_of(name) ? 0 : 1;
    const size_t distance = std::min(edit_distance(name, known),
                                     edit_distance(last_part(name), last_part(known)) + moved);
    if (distance < best_distance) {
      best_distance = distance;
      best = known;
    }
  }
  return std::string(best);
}

std::vector<std::string_view> alternatives(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const size_t bar = text.find('|');
    out.push_back(text.substr(0, bar));
    text = bar == std::string_view::npos ? std::string_view() : text.substr(bar + 1);
  }
  return out;
}

std::string join_or(std::span<const std::string_view> words) {
  std::string out;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) out += i + 1 == words.size() ? " or " : ", ";
    out += words[i];
  }
  return out;
}

std::string_view section_of(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
}

std::string_view last_part(std::string_view name) { return name.substr(name.rfind('.') + 1); }

}  // namespace rwkv
