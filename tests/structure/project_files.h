// Reads the project's own files for the tests of its structure.
#pragma once

#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rwkv::structure {

inline std::filesystem::path project_root() { return RWKV_SOURCE_DIR; }

// Throws when there is no such file, so that no test passes for want of its subject.
inline std::string project_text(const std::filesystem::path& relative) {
  std::ifstream file(project_root() / relative, std::ios::binary);
  if (!file) throw std::runtime_error("no file " + relative.string());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Paths relative to the root, of all files under `folder` that end in one of `endings`; none when
// there is no such folder.
inline std::vector<std::string> files_below(std::string_view folder,
                                            const std::vector<std::string>& endings) {
  std::vector<std::string> files;
  const std::filesystem::path start = project_root() / folder;
  if (!std::filesystem::exists(start)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(start)) {
    const std::string path = entry.path().lexically_relative(project_root()).generic_string();
    for (const std::string& ending : endings) {
      if (entry.is_regular_file() && path.ends_with(ending)) files.push_back(path);
    }
  }
  return files;
}

inline std::vector<std::string> sources_in(const std::vector<std::string>& folders) {
  std::vector<std::string> all;
  for (const std::string& folder : folders) {
    for (std::string& path : files_below(folder, {".h", ".cpp", ".cu", ".cuh"})) {
      all.push_back(std::move(path));
    }
  }
  return all;
}

}  // namespace rwkv::structure
