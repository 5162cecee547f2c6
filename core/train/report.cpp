#include "core/train/report.h"

#include <filesystem>

#include "core/base/posix_file.h"

namespace rwkv {

void write_report(const std::string& run_dir) {
  const auto folder = std::filesystem::absolute(run_dir).lexically_normal();
  RunFiles files;
  files.name = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  files.recipe = read_file((folder / "config.yaml").string());
  files.rows = read_metrics((folder / "metrics.jsonl").string(), &files.header);
  replace_file((folder / "report.html").string(), report_page(files));
}

}  // namespace rwkv
