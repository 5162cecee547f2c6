#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <variant>

#include "core/config/fields.h"
#include "core/config/load.h"
#include "core/config/value.h"
#include "tests/core/config/file_contents.h"

namespace rwkv {
namespace {

using namespace test;
namespace fs = std::filesystem;

const fs::path kSource = RWKV_SOURCE_DIR;

TEST(RecipeReference, TheCommittedPageIsTheTables) {
  EXPECT_EQ(contents(kSource / "docs/recipe.md"), recipe_markdown());
}

TEST(RecipeReference, TheCommittedSchemaIsTheTables) {
  EXPECT_EQ(contents(kSource / "docs/recipe.schema.json"), recipe_json_schema());
}

TEST(RecipeReference, EveryKeyIsDocumented) {
  const std::string page = recipe_markdown(), help = recipe_help();
  const auto schema = nlohmann::json::parse(recipe_json_schema());
  for (const Field& field : recipe_fields()) {
    EXPECT_FALSE(field.doc.empty()) << field.name;
    EXPECT_NE(page.find("| `" + std::string(field.name) + "` |"), std::string::npos) << field.name;
    EXPECT_NE(help.find("  " + std::string(field.name) + " "), std::string::npos) << field.name;
    std::string pointer;
    for (std::string rest(field.name); !rest.empty();) {
      const std::string part = rest.substr(0, rest.find('.'));
      rest = part.size() == rest.size() ? "" : rest.substr(part.size() + 1);
      pointer += "/properties/" + part;
    }
    EXPECT_TRUE(schema.contains(nlohmann::json::json_pointer(pointer))) << field.name;
  }
}

TEST(RecipeReference, EveryRecipeParses) {
  int seen = 0;
  for (const auto& entry : fs::directory_iterator(kSource / "recipes")) {
    if (entry.path().extension() != ".yaml") continue;
    ++seen;
    EXPECT_NO_THROW(load_recipe(entry.path().string(), {})) << entry.path();
  }
  EXPECT_GE(seen, 2);
}

TEST(RecipeFields, NamesAreUniqueAndSectionsStandTogether) {
  std::set<std::string_view> names, sections;
  std::string_view section = "-";
  for (const Field& field : recipe_fields()) {
    EXPECT_TRUE(names.insert(field.name).second) << field.name;
    const std::string_view own = field.name.substr(0, field.name.find('.'));
    if (own != section) {
      EXPECT_TRUE(sections.insert(own).second) << field.name;
    }
    section = own;
  }
}

TEST(RecipeFields, NoKeyIsASectionToo) {
  for (const Field& field : recipe_fields()) EXPECT_FALSE(is_section(field.name)) << field.name;
}

TEST(RecipeFields, DefaultsAreBuiltAndMatchTheirPlaces) {
  for (const Field& field : recipe_fields()) {
    const Value value = default_value(field);
    EXPECT_EQ(describe_missing(field, value), "") << field.name;
    Recipe recipe;
    EXPECT_NO_THROW(set_value(field, value, recipe)) << field.name;
  }
}

// A key without a place cannot act; any value but its default must be refused.
TEST(RecipeFields, WhatHasNoPlaceIsNotBuilt) {
  for (const Field& field : recipe_fields()) {
    if (!std::holds_alternative<std::monostate>(field.place)) continue;
    const std::string only(field.built.empty() ? field.allowed : field.built);
    EXPECT_EQ(only, field.fallback) << field.name;
  }
}

TEST(RecipeFields, TheNearestNameForgivesSlipsAndWrongSections) {
  EXPECT_EQ(nearest_name("train.stpes"), "train.steps");
  EXPECT_EQ(nearest_name("optimiser.lr"), "optimizer.lr");
  EXPECT_EQ(nearest_name("lr"), "optimizer.lr");
  EXPECT_EQ(nearest_name("train.lr_final"), "optimizer.lr_final");
  EXPECT_EQ(nearest_name("modle"), "model");
  EXPECT_EQ(nearest_name("optimizer.learning_rate_final"), "optimizer.lr_final");
}

}  // namespace
}  // namespace rwkv
