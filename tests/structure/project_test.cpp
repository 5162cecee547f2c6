// What the project says of itself in more than one place stays the same in all of them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/structure/project_files.h"

namespace rwkv::structure {
namespace {

using Names = std::set<std::string>;

Names words_of(const std::string& text, const std::string& pattern) {
  const std::regex word(pattern);
  Names words;
  for (std::sregex_iterator it(text.begin(), text.end(), word), end; it != end; ++it) {
    words.insert((*it)[it->size() > 1 ? 1 : 0]);
  }
  return words;
}

Names absent(const Names& wanted, const Names& present) {
  Names missing;
  std::set_difference(wanted.begin(), wanted.end(), present.begin(), present.end(),
                      std::inserter(missing, missing.end()));
  return missing;
}

// Debian packages that the build files tell the user to install.
Names packages_named_by_cmake(const std::string& cmake) {
  Names packages;
  for (const std::string& list : words_of(cmake, "apt install ([a-z0-9+ -]+)")) {
    packages.merge(words_of(list, "[a-z0-9+-]+"));
  }
  return packages;
}

// Folders below tests/ that have a *_test.cpp.
Names folders_with_tests(const std::vector<std::string>& files) {
  Names folders;
  for (const std::string& file : files) {
    folders.insert(
        std::filesystem::path(file).parent_path().lexically_relative("tests").generic_string());
  }
  return folders;
}

std::string without_hash_comments(const std::string& text) {
  return std::regex_replace(text, std::regex("#[^\n]*"), "");
}

constexpr const char* kPackage = "[a-z0-9][a-z0-9+.-]+";
constexpr const char* kPath = "[a-z0-9_/]+";

struct Output {
  int code = -1;
  std::string text;
};

Output run(const std::string& command) {
  Output output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  std::array<char, 256> buffer = {};
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) output.text += buffer.data();
  output.code = pclose(pipe);
  return output;
}

TEST(Packages, OfTheBuildFilesAreInstalledByTheScriptAndExplained) {
  const Names needed = packages_named_by_cmake(project_text("cmake/RwkvDependencies.cmake"));
  ASSERT_TRUE(needed.contains("libopenmpi-dev"));
  EXPECT_EQ(absent(needed, words_of(without_hash_comments(project_text("scripts/install-deps.sh")),
                                    kPackage)),
            Names());
  EXPECT_EQ(absent(needed, words_of(project_text("docs/dependencies.md"), kPackage)), Names());
}

TEST(Packages, MissingFromAListAreFound) {
  const Names needed =
      packages_named_by_cmake("\"apt install libone-dev two++\" \"apt install c\"");
  EXPECT_EQ(needed, (Names{"libone-dev", "two++", "c"}));
  EXPECT_EQ(absent(needed, words_of("  libone-devel two++", kPackage)), (Names{"c", "libone-dev"}));
}

TEST(TestFolders, AreAllBuilt) {
  const Names folders = folders_with_tests(files_below("tests", {"_test.cpp"}));
  ASSERT_TRUE(folders.contains("structure"));
  const std::string cmake = without_hash_comments(project_text("tests/CMakeLists.txt"));
  EXPECT_EQ(absent(folders, words_of(cmake, kPath)), Names());
}

TEST(TestFolders, MissingFromTheBuildAreFound) {
  const Names folders = folders_with_tests({"tests/core/io/a_test.cpp", "tests/fuzz/b_test.cpp"});
  const std::string cmake =
      without_hash_comments("# core, fuzz\nforeach(folder core/io core/base)");
  EXPECT_EQ(absent(folders, words_of(cmake, kPath)), (Names{"fuzz"}));
}

TEST(Recipes, AreAllNamedForTheUser) {
  std::string documents = project_text("README.md");
  for (const std::string& page : files_below("docs", {".md"})) documents += project_text(page);
  Names recipes;
  for (const std::string& path : files_below("recipes", {".yaml"})) {
    recipes.insert(std::filesystem::path(path).filename().string());
  }
  EXPECT_EQ(absent(recipes, words_of(documents, "[A-Za-z0-9_-]+\\.yaml")), Names());
}

TEST(Scripts, ParseAndCanBeStarted) {
  std::vector<std::string> scripts = files_below("scripts", {".sh"});
  ASSERT_FALSE(scripts.empty());
  scripts.emplace_back(".ci/run");
  for (const std::string& script : scripts) {
    const std::string path = (project_root() / script).string();
    EXPECT_EQ(run("bash -n '" + path + "' 2>&1").text, "") << script;
    const bool sourced = script == "scripts/lib.sh";
    EXPECT_EQ(access(path.c_str(), X_OK) == 0, !sourced) << script;
  }
}

// What ctest writes: a test that could not be started and one that skipped itself are both
// "notrun", and only the second is a skipped one.
TEST(Scripts, CountWhatCtestReports) {
  const std::string report =
      "<testsuite name=\"x\"\n\ttests=\"6\"\n\tfailures=\"1\"\n\t>\n"
      "\t<testcase name=\"a\" status=\"run\">\n\t\t<system-out>status=\"fail\"</system-out>\n"
      "\t<testcase name=\"b\" status=\"run\">\n"
      "\t<testcase name=\"c\" status=\"fail\">\n\t\t<failure message=\"\"/>\n"
      "\t<testcase name=\"d\" status=\"notrun\">\n"
      "\t\t<skipped message=\"SKIP_REGULAR_EXPRESSION_MATCHED\"/>\n"
      "\t<testcase name=\"e\" status=\"notrun\">\n"
      "\t\t<skipped message=\"Unable to find executable\"/>\n"
      "\t<testcase name=\"f\" status=\"disabled\">\n";
  std::string folder = (std::filesystem::temp_directory_path() / "rwkv-junit-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string file = folder + "/report.xml";
  std::ofstream(file) << report;
  const std::string library = (project_root() / "scripts/lib.sh").string();
  const Output counts = run("bash -c 'source \"" + library + "\" && count_junit " + file + "'");
  std::filesystem::remove_all(folder);
  EXPECT_EQ(counts.code, 0);
  EXPECT_EQ(counts.text, "2 2 2\n");
}

}  // namespace
}  // namespace rwkv::structure
