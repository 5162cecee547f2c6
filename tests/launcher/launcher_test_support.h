// What the tests of the program share: a recipe that runs in a fraction of a second, and what a run
// left behind.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "core/io/checkpoint.h"
#include "core/train/metrics.h"
#include "tests/support/process.h"

namespace rwkv::test {

// 6 steps of 5 sequences; 5 is shared out unevenly over 2 and 3 ranks.
inline constexpr const char* kSmallRecipe = R"(model: {layers: 2, width: 32, head_size: 16}
data: {source: reverse}
train: {context: 32, batch: 5, steps: 6}
optimizer: {lr: 2e-3, warmup: 2}
eval: {batches: 1}
precision: fp32
)";

// More steps than any test waits for; with checkpoints often.
inline constexpr const char* kEndless = "train.steps=10000000 checkpoint.every=5 eval.every=0";

class SmallRun : public testing::Test {
 protected:
  void SetUp() override { folder_.write("small.yaml", kSmallRecipe); }

  Ended program(const std::string& arguments) const {
    return run_program(folder_.path(), arguments);
  }
  Ended mpi(int ranks, const std::string& arguments) const {
    return run_mpi(folder_.path(), ranks, arguments);
  }
  std::string file(const std::string& name) const { return folder_.file(name); }
  bool there(const std::string& name) const { return std::filesystem::exists(file(name)); }
  std::vector<StepRow> rows(const std::string& run) const {
    return read_metrics(file(run + "/metrics.jsonl"), nullptr);
  }
  // Of the newest checkpoint.
  CheckpointInfo newest(const std::string& run) const {
    return read_checkpoint_info(latest_checkpoint(file(run)));
  }

  TempFolder folder_;
};

inline int64_t lines_of(const std::string& text) {
  return std::count(text.begin(), text.end(), '\n');
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// One line on stderr, nothing on stdout, code 88, and this in it.
inline void expect_refused(const Ended& ended, const std::vector<std::string>& parts) {
  EXPECT_EQ(ended.code, 88) << ended.err << ended.out;
  EXPECT_EQ(lines_of(ended.err), 1) << ended.err;
  EXPECT_EQ(ended.out, "");
  for (const std::string& part : parts)
    EXPECT_TRUE(has(ended.err, part)) << part << ": " << ended.err;
}

}  // namespace rwkv::test
