#include "core/io/checkpoint_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "core/base/posix_file.h"
#include "core/io/checkpoint.h"

namespace rwkv {
namespace fs = std::filesystem;
namespace {

fs::path without_slash(const std::string& path) {
  const size_t last = path.find_last_not_of('/');
  return last == std::string::npos ? path : path.substr(0, last + 1);
}

}  // namespace

int64_t step_named(const std::string& path) {
  const std::string name = without_slash(path).filename();
  int64_t step = -1;
  if (!name.starts_with("step-")) return -1;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + 5, end, step);
  return error == std::errc{} && stop == end ? step : -1;
}

std::vector<int64_t> steps_in(const std::string& folder) {
  std::vector<int64_t> steps;
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    return steps;
  }
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const int64_t step = step_named(entries->path());
    // "step-007" is none of ours.
    if (step < 0 || entries->path().filename() != fmt::format("step-{}", step)) continue;
    if (fs::is_directory(entries->path())) steps.push_back(step);
  }
  if (error) throw IoError(folder + ": cannot list it: " + error.message());
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string step_path(const std::string& folder, int64_t step) {
  return fmt::format("{}/step-{}", folder, step);
}

std::vector<std::string> checkpoints_of(const std::string& run_folder) {
  const std::string folder = run_folder + "/checkpoints";
  std::vector<std::string> paths;
  for (int64_t step : steps_in(folder)) paths.push_back(step_path(folder, step));
  return paths;
}

std::string latest_checkpoint(const std::string& run_folder) {
  const std::vector<std::string> all = checkpoints_of(run_folder);
  return all.empty() ? "" : all.back();
}

std::string lost_checkpoint(const std::string& run_folder) {
  const std::string folder = run_folder + "/checkpoints", latest = folder + "/latest";
  std::error_code ignored;
  if (!fs::is_regular_file(latest, ignored)) return "";
  const std::string said = read_file(latest);
  const int64_t step = step_named(said.substr(0, said.find('\n')));
  const std::vector<int64_t> steps = steps_in(folder);
  return step < 0 || (!steps.empty() && steps.back() >= step) ? "" : step_path(folder, step);
}

bool is_checkpoint(const std::string& path) {
  return fs::is_regular_file(path + "/index.h5") ||
         (step_named(path) >= 0 && fs::is_directory(path));
}

void set_checkpoints_aside(const std::vector<std::string>& damaged, const std::string& used) {
  if (damaged.empty()) return;
  for (const std::string& path : damaged) {
    std::string aside = path + ".damaged";
    for (int number = 2; fs::exists(aside); ++number) {
      aside = fmt::format("{}.damaged-{}", path, number);
    }
    fs::rename(path, aside);
  }
  const std::string folder = fs::path(used).parent_path();
  fsync_path(folder);
  replace_file(folder + "/latest", fs::path(used).filename().string() + "\n");
}

}  // namespace rwkv
