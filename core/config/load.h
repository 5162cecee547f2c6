// From a YAML recipe and `key=value` overrides to a checked Recipe.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/recipe.h"

namespace rwkv {

// Which keys must be there: training needs a whole recipe, `eval SOURCE key=value` does not.
enum class RecipeUse { kTrain, kSource };

// Reads `path`, applies the overrides, fills defaults, checks types, ranges and conflicts. Paths in
// it are resolved relative to the recipe's folder; those of overrides relative to the working
// directory. Throws InputError with one line `recipe.yaml:12:3: ...` (an override:
// `train.steps=x: ...`) that names the key, what is allowed and the nearest known name. Creates
// nothing. Any rank may call it; rank 0 reads the file and broadcasts its text (parse_recipe).
Recipe load_recipe(const std::string& path, std::span<const std::string> overrides);

// The same from text. `path` is used in messages, for the name and for relative paths.
Recipe parse_recipe(std::string_view text, const std::string& path,
                    std::span<const std::string> overrides, RecipeUse use = RecipeUse::kTrain);

// The resolved recipe as YAML: every key with its value, in the table's order; parse_recipe() of it
// gives an equal Recipe.
std::string to_yaml(const Recipe&);

// Generated from the field table.
std::string recipe_markdown();     // docs/recipe.md
std::string recipe_json_schema();  // docs/recipe.schema.json
std::string recipe_help();         // the keys' part of `rwkv-dist --help`
std::vector<std::string> recipe_keys();

}  // namespace rwkv
