#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/config/fields.h"
#include "core/config/load.h"
#include "core/config/value.h"
#include "core/config/yaml_tree.h"

namespace rwkv {
namespace {

constexpr const char* kLeastRecipe =
    "model: {layers: 2, width: 64}\ntrain: {context: 64, batch: 4, steps: 10}\n";

void expect_equal(Recipe a, Recipe b) {
  EXPECT_EQ(a.name, b.name);
  for (const Field& field : recipe_fields()) {
    EXPECT_EQ(get_value(field, a), get_value(field, b)) << field.name;
  }
}

// Written into another folder, so that a path that is not absolute would change.
void expect_round_trip(const std::vector<std::string>& overrides) {
  const Recipe recipe = parse_recipe(kLeastRecipe, "/some/where/r.yaml", overrides);
  const std::string text = to_yaml(recipe);
  expect_equal(parse_recipe(text, "/else/r.yaml", {}), recipe);
  EXPECT_EQ(to_yaml(parse_recipe(text, "/else/r.yaml", {})), text);
}

TEST(RecipeToYaml, HasEveryKeyOnce) {
  const std::string text = to_yaml(parse_recipe(kLeastRecipe, "r.yaml", {}));
  const YamlNode root = parse_yaml(text, "r.yaml");
  for (const std::string& key : recipe_keys()) {
    const YamlNode* node = &root;
    for (std::string rest = key; !rest.empty();) {
      const std::string part = rest.substr(0, rest.find('.'));
      rest = part.size() == rest.size() ? "" : rest.substr(part.size() + 1);
      const YamlNode* next = nullptr;
      for (size_t i = 0; i < node->items.size(); i += 2) {
        if (node->items[i].text == part) next = &node->items[i + 1];
      }
      ASSERT_NE(next, nullptr) << key;
      node = next;
    }
    EXPECT_NE(node->kind, YamlNode::Kind::kMap) << key;
  }
}

TEST(RecipeToYaml, PrintsTheWordsForNotGiven) {
  const std::string text = to_yaml(parse_recipe(kLeastRecipe, "r.yaml", {}));
  EXPECT_NE(text.find("\n  micro_batch: auto\n  steps: 10\n  tokens: none\n  stop_at: none\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\n  init_from: none\n"), std::string::npos) << text;
}

TEST(RecipeToYaml, RoundTripsDefaults) { expect_round_trip({}); }

TEST(RecipeToYaml, RoundTripsNumbersToTheBit) {
  expect_round_trip({"run.seed=18446744073709551615", "optimizer.lr=0.30000000000000004",
                     "optimizer.lr_final=1.0000000000000002e-5", "optimizer.eps=1e-37",
                     "optimizer.betas=[0.1, 0.9999999999999999]", "optimizer.weight_decay=1e300",
                     "model.dropout=-0", "train.steps=1000000000000"});
}

TEST(RecipeToYaml, RoundTripsTokens) { expect_round_trip({"train.tokens=1001"}); }

TEST(RecipeToYaml, RoundTripsPathsWithAwkwardNames) {
  for (const std::string name :
       {"a b",         "#x",          "a: b", "it's", "\"q\"",
        "back\\slash", "caf\xc3\xa9", "{x}",  "0.5",  "true",
        "none",        "~",           "-",    "*a",   "&a",
        "!a",          "%a",          "@a",   "`a",   "../up/./here//there/"}) {
    std::string quoted = "'";
    for (char c : name) quoted += c == '\'' ? "''" : std::string(1, c);
    quoted += "'";
    SCOPED_TRACE(name);
    const std::string data = name == "none" ? "./none" : quoted;
    expect_round_trip({"run.dir=" + quoted, "data.source=text", "data.path=" + data,
                       "data.validation=" + quoted, "run.init_from=" + quoted});
  }
}

TEST(RecipeToYaml, RoundTripsFractions) {
  expect_round_trip({"data.source=text", "data.path=x", "data.validation=1e-7"});
}

TEST(RecipeToYaml, RoundTripsEveryWordThatIsBuilt) {
  for (const Field& field : recipe_fields()) {
    if (field.type != FieldType::kText || field.name.starts_with("data.")) continue;
    for (std::string_view word : alternatives(field.built.empty() ? field.allowed : field.built)) {
      SCOPED_TRACE(std::string(field.name) + "=" + std::string(word));
      // Some words ask for a chunk.
      expect_round_trip({std::string(field.name) + "=" + std::string(word), "train.chunk=512"});
    }
  }
}

TEST(RecipeToYaml, ASourceLeavesOutWhatItLacks) {
  const Recipe recipe = parse_recipe("", "r.yaml", {}, RecipeUse::kSource);
  const std::string text = to_yaml(recipe);
  EXPECT_EQ(text.find("  context:"), std::string::npos);
  expect_equal(parse_recipe(text, "r.yaml", {}, RecipeUse::kSource), recipe);
}

}  // namespace
}  // namespace rwkv
