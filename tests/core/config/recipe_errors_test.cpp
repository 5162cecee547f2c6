#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/config/load.h"
#include "core/config/yaml_tree.h"
#include "tests/core/config/file_contents.h"
#include "tests/support/sanitized.h"

namespace rwkv {
namespace {

using namespace test;
namespace fs = std::filesystem;

const fs::path kCorpus = fs::path(RWKV_SOURCE_DIR) / "tests/core/config/corpus";

// File name -> its line, which begins with the file name.
std::map<std::string, std::string> expected_lines() {
  std::map<std::string, std::string> lines;
  std::ifstream in(kCorpus / "expected.txt");
  for (std::string line; std::getline(in, line);) lines[line.substr(0, line.find(':'))] = line;
  return lines;
}

TEST(RecipeErrors, EachBadRecipeGivesItsLine) {
  const auto expected = expected_lines();
  size_t seen = 0;
  for (const auto& entry : fs::directory_iterator(kCorpus)) {
    if (entry.path().extension() != ".yaml") continue;
    ++seen;
    const std::string name = entry.path().filename().string();
    ASSERT_TRUE(expected.contains(name)) << name;
    try {
      parse_recipe(contents(entry.path()), name, {});
      ADD_FAILURE() << name << " was accepted";
    } catch (const InputError& e) {
      EXPECT_EQ(e.what(), expected.at(name));
      EXPECT_EQ(e.exit_code(), ExitCode::kBadInput);
    }
  }
  EXPECT_EQ(seen, expected.size());
}

TEST(RecipeErrors, LongNamesAndValuesAreCut) {
  const std::string text = std::string(100000, 'x') + ": 1\n";
  try {
    parse_recipe(text, "r.yaml", {});
    ADD_FAILURE();
  } catch (const InputError& e) {
    EXPECT_LT(std::string(e.what()).size(), 500u);
  }
}

TEST(RecipeErrors, ALargeFileIsRefusedByItsSize) {
  const std::string text(kMaxRecipeBytes + 1, ' ');
  try {
    parse_recipe(text, "r.yaml", {});
    ADD_FAILURE();
  } catch (const InputError& e) {
    EXPECT_STREQ(e.what(), "r.yaml:1:1: 1048577 bytes: a recipe has at most 1048576");
  }
}

TEST(RecipeErrors, ManyValuesAreRefused) {
  std::string text = "model: {blocks: [";
  for (int i = 0; i < kMaxYamlNodes; ++i) text += "rwkv7,";
  text += "]}";
  try {
    parse_recipe(text, "r.yaml", {});
    ADD_FAILURE();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("more than 10000 values"), std::string::npos) << e.what();
  }
}

// A valid recipe with something of everything, to be damaged.
std::string whole_recipe() {
  const std::string text =
      "model: {layers: 2, width: 64}\ntrain: {context: 64, batch: 4, steps: 10}\n"
      "run: {dir: \"a b\", seed: 3}\n";
  return to_yaml(parse_recipe(text, "r.yaml", {})) + "# 'x' \"y\" & * ! | >\n";
}

std::string damaged(std::string text, std::mt19937_64& random) {
  static const std::string kBytes = ":-[]{}#&*!|>'\"%@`,?~ \t\n\r\\0123456789.eE+_ax\xc3\xa9\xff";
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const size_t changes = 1 + below(2) * below(3);
  for (size_t i = 0; i < changes && !text.empty(); ++i) {
    const size_t at = below(text.size());
    const size_t length = std::min(1 + below(20), text.size() - at);
    switch (below(6)) {
      case 0:
        text[at] = static_cast<char>(below(256));
        break;
      case 1:
        text[at] = kBytes[below(kBytes.size())];
        break;
      case 2:
        text.insert(at, 1, kBytes[below(kBytes.size())]);
        break;
      case 3:
        text.erase(at, length);
        break;
      case 4:
        text.insert(below(text.size()), text.substr(at, length));
        break;
      default:
        text.resize(at);
        break;
    }
  }
  return text;
}

constexpr int kDamaged = test::kSanitized ? 1000 : 4000;

// One line, however broken the text.
void expect_one_line(const std::string& what) {
  EXPECT_FALSE(what.empty());
  for (char c : what) EXPECT_FALSE(static_cast<unsigned char>(c) < 0x20) << what;
}

TEST(RecipeErrors, DamagedRecipesAreReadOrRefusedInOneLine) {
  const std::string whole = whole_recipe();
  std::mt19937_64 random(20240607);
  int refused = 0, accepted = 0;
  for (int i = 0; i < kDamaged; ++i) {
    const std::string text = damaged(whole, random);
    try {
      const std::string resolved = to_yaml(parse_recipe(text, "r.yaml", {}));
      EXPECT_EQ(to_yaml(parse_recipe(resolved, "r.yaml", {})), resolved) << text;
      ++accepted;
    } catch (const InputError& e) {
      ++refused;
      expect_one_line(e.what());
      EXPECT_EQ(std::string(e.what()).substr(0, 7), "r.yaml:") << e.what();
    } catch (const std::exception& e) {
      FAIL() << "not an InputError: " << e.what() << "\n" << text;
    }
  }
  // Both outcomes happen often, or the test looks at nothing.
  EXPECT_GT(refused, kDamaged / 8);
  EXPECT_GT(accepted, kDamaged / 40);
}

TEST(RecipeErrors, DamagedOverridesAreReadOrRefusedInOneLine) {
  const std::vector<std::string> keys = recipe_keys();
  std::mt19937_64 random(7);
  int refused = 0;
  for (int i = 0; i < kDamaged; ++i) {
    const std::string& key = keys[random() % keys.size()];
    const std::vector<std::string> overrides{damaged(key + "=[auto, {a: 'b'}, 1.5e3]", random)};
    try {
      parse_recipe("", "r.yaml", overrides, RecipeUse::kSource);
    } catch (const InputError& e) {
      ++refused;
      expect_one_line(e.what());
    } catch (const std::exception& e) {
      FAIL() << "not an InputError: " << e.what() << "\n" << overrides[0];
    }
  }
  EXPECT_GT(refused, kDamaged / 4);
}

TEST(RecipeErrors, RandomBytesAreRefused) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 2000; ++i) {
    std::string text(random() % 200, '\0');
    for (char& c : text) c = static_cast<char>(random());
    EXPECT_THROW(parse_recipe(text, "r.yaml", {}), InputError);
  }
}

}  // namespace
}  // namespace rwkv
