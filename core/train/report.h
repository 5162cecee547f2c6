// report.html: a run on one page that opens without a network.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/train/metrics.h"

namespace rwkv {

struct RunFiles {
  std::string name = {};    // title of the page
  std::string recipe = {};  // text of config.yaml
  std::string header = {};  // first line of metrics.jsonl, or empty
  std::vector<StepRow> rows = {};
};

// The page: self-contained (styles and pictures inline, no script, nothing fetched), well-formed as
// XML too, a function of its input alone. Key facts, plots of loss, skills, gradient norm, learning
// rate and speed, the recipe. Strings and numbers of the header appear as facts under their names;
// "model", "data" and "floor" (nats a token) take the place of what recipe and rows would say.
std::string report_page(const RunFiles&);

// Reads config.yaml and metrics.jsonl of a run folder and replaces its report.html atomically. Rank
// 0 only; a run may be writing meanwhile. InputError when one of the two is missing or bad.
void write_report(const std::string& run_dir);

}  // namespace rwkv
