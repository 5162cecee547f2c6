#include "core/config/load.h"

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "core/config/checks.h"
#include "core/config/given.h"
#include "core/config/value.h"
#include "core/config/yaml_tree.h"

namespace rwkv {
namespace {

namespace fs = std::filesystem;

void fill(const GivenKeys& given, Recipe& recipe) {
  for (const Field& field : recipe_fields()) {
    const GivenKeys::Entry* entry = given.find(field.name);
    set_value(field, entry != nullptr ? entry->value : default_value(field), recipe);
  }
  if (!given.has("run.dir")) recipe.run.dir = resolve_path("runs/" + recipe.name, "");
}

}  // namespace

Recipe parse_recipe(std::string_view text, const std::string& path,
                    std::span<const std::string> overrides, RecipeUse use) {
  GivenKeys given(path);
  given.read_file(text);
  for (const std::string& override : overrides) given.apply_override(override);
  if (use == RecipeUse::kTrain) check_required(given);
  Recipe recipe;
  recipe.name = fs::path(path).stem().string();
  if (recipe.name.empty()) recipe.name = "recipe";
  fill(given, recipe);
  const bool has_weights = use == RecipeUse::kSource || !recipe.run.init_from.empty();
  if (has_weights && !given.has("model.head_size")) recipe.model.head_size = 0;
  settle_steps(given, recipe);
  check_recipe(given, recipe, use);
  return recipe;
}

Recipe load_recipe(const std::string& path, std::span<const std::string> overrides) {
  const std::string shown = printable(path, 200);
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw InputError(fmt::format("{}: {}", shown, error.message()));
  if (!fs::is_regular_file(status)) throw InputError(shown + ": not a file");
  // Looked at before reading, so that a wrong file does not fill the memory.
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) throw InputError(fmt::format("{}: {}", shown, error.message()));
  if (bytes > kMaxRecipeBytes) {
    throw InputError(
        fmt::format("{}:1:1: {} bytes: a recipe has at most {}", shown, bytes, kMaxRecipeBytes));
  }
  return parse_recipe(read_file(path), path, overrides);
}

}  // namespace rwkv
