#include "core/train/metrics.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "core/base/rng.h"
#include "tests/core/train/display_checks.h"
#include "tests/support/small_disk.h"

namespace rwkv {
namespace {

using namespace test;

constexpr const char* kHeader = R"({"run":"base","machine":"laptop","numerics":"cpu-1"})";

class Metrics : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "rwkv_metrics_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = name + "/metrics.jsonl";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(int64_t first, int64_t last, int64_t keep) const {
    MetricsWriter writer(path_, kHeader, keep);
    for (int64_t step = first; step <= last; ++step) writer.append(row(step));
    writer.close();
  }
  void put(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  std::string text() const { return read_file(path_); }
  static StepRow row(int64_t step) {
    return {.step = step, .tokens = 64 * step, .loss = 5.0 / static_cast<double>(step)};
  }
  std::string bad_line_message(const std::string& lines) const {
    put(std::string(kHeader) + '\n' + lines);
    try {
      read_metrics(path_, nullptr);
    } catch (const InputError& e) {
      return e.what();
    }
    return "read without an error";
  }

  std::filesystem::path folder_;
  std::string path_;
};

uint64_t bits(double v) { return std::bit_cast<uint64_t>(v); }

TEST_F(Metrics, AnyFiniteDoubleReadsBackToTheSameBits) {
  const Philox random(11);
  std::vector<double> values{0.0,
                             -0.0,
                             1.0,
                             6e-4,
                             0.1,
                             1e22,
                             1e23,
                             -1e300,
                             5e-324,
                             std::numeric_limits<double>::min(),
                             std::numeric_limits<double>::max(),
                             9007199254740993.0};
  for (uint64_t i = 0; values.size() < 5000; ++i) {
    const auto words = random.words(i);
    const double v = std::bit_cast<double>((static_cast<uint64_t>(words[0]) << 32) | words[1]);
    if (std::isfinite(v)) values.push_back(v);
  }
  {
    MetricsWriter writer(path_, kHeader, 0);
    for (size_t i = 0; i < values.size(); ++i) {
      StepRow r{.step = static_cast<int64_t>(i) + 1};
      r.loss = r.grad_norm = r.lr = r.seconds = r.tokens_per_s = values[i];
      r.floor = r.eval_loss = r.eval_floor = values[i];
      r.skills = {{"reverse", values[i]}};
      writer.append(r);
    }
  }
  const auto rows = read_metrics(path_, nullptr);
  ASSERT_EQ(rows.size(), values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const StepRow& r = rows[i];
    for (const double v : {r.loss, r.grad_norm, r.lr, r.seconds, r.tokens_per_s, r.floor.value(),
                           r.eval_loss.value(), r.eval_floor.value(), r.skills.at(0).second}) {
      ASSERT_EQ(bits(v), bits(values[i])) << values[i];
    }
  }
}

TEST_F(Metrics, WholeNumbersReadBack) {
  const int64_t huge = std::numeric_limits<int64_t>::max();
  {
    MetricsWriter writer(path_, kHeader, 0);
    writer.append({.step = huge, .tokens = huge - 1});
  }
  const auto rows = read_metrics(path_, nullptr);
  EXPECT_EQ(rows.at(0).step, huge);
  EXPECT_EQ(rows.at(0).tokens, huge - 1);
}

TEST_F(Metrics, WhatIsNotFiniteIsLegalJsonAndReadsBack) {
  StepRow r = row(1);
  r.loss = kNaN;
  r.grad_norm = kInf;
  r.eval_loss = -kInf;
  r.skills = {{"where", kNaN}, {"reverse", 0.5}};
  const std::string line = to_json(r);
  const auto json = nlohmann::json::parse(line);
  EXPECT_TRUE(json.at("loss").is_null());
  EXPECT_EQ(json.at("note").at("loss"), "nan");
  EXPECT_EQ(json.at("note").at("eval_loss"), "-inf");
  EXPECT_EQ(json.at("note").at("skills.where"), "nan");
  put(std::string(kHeader) + '\n' + line + '\n');
  const StepRow back = read_metrics(path_, nullptr).at(0);
  EXPECT_TRUE(std::isnan(back.loss));
  EXPECT_EQ(back.grad_norm, kInf);
  EXPECT_EQ(back.eval_loss, -kInf);
  EXPECT_TRUE(std::isnan(back.skills.at(0).second));
  EXPECT_EQ(back.skills.at(1).second, 0.5);
}

TEST_F(Metrics, RowsHaveNoNoteAndNoOptionalKeysUnlessNeeded) {
  const auto json = nlohmann::json::parse(to_json(row(3)));
  for (const char* key : {"note", "floor", "eval_loss", "eval_floor", "skills"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
  for (const char* key : {"step", "tokens", "loss", "grad_norm", "lr", "seconds", "tokens_per_s"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
}

TEST_F(Metrics, NamesOfSkillsAreEscapedAndKeepTheirOrder) {
  StepRow r = row(1);
  r.skills = {{"z \"quoted\"\n", 0.25}, {"a", 0.75}};
  const std::string line = to_json(r);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  put(std::string(kHeader) + '\n' + line + '\n');
  EXPECT_EQ(read_metrics(path_, nullptr).at(0).skills, r.skills);
}

TEST_F(Metrics, RowsAreInTheFileBeforeTheWriterCloses) {
  MetricsWriter writer(path_, kHeader, 0);
  writer.append(row(1));
  EXPECT_EQ(read_metrics(path_, nullptr).size(), 1u);
  writer.append(row(2));
  EXPECT_EQ(read_metrics(path_, nullptr).size(), 2u);
}

TEST_F(Metrics, AHeaderBecomesOneLine) {
  { MetricsWriter writer(path_, "{\n  \"run\": \"a\\nb\"\n}\n", 0); }
  EXPECT_EQ(text(), "{\"run\":\"a\\nb\"}\n");
}

TEST_F(Metrics, AHeaderThatIsNoObjectIsRefused) {
  EXPECT_THROW(MetricsWriter(path_, "[1]", 0), Error);
  EXPECT_THROW(MetricsWriter(path_, "{", 0), Error);
}

TEST_F(Metrics, AfterCloseNothingIsTaken) {
  MetricsWriter writer(path_, kHeader, 0);
  writer.close();
  writer.close();
  EXPECT_THROW(writer.append(row(1)), Error);
}

TEST_F(Metrics, ResumeCutsRowsAfterTheCheckpointAndGivesTheFileOfAnUnbrokenRun) {
  write(1, 10, 0);
  const std::string unbroken = text();
  write(7, 10, 6);
  EXPECT_EQ(text(), unbroken);
}

TEST_F(Metrics, ResumeKeepsTheFirstHeader) {
  write(1, 4, 0);
  { MetricsWriter writer(path_, R"({"run":"other"})", 4); }
  std::string header;
  EXPECT_EQ(read_metrics(path_, &header).size(), 4u);
  EXPECT_EQ(header, kHeader);
}

TEST_F(Metrics, EveryTornLengthOfTheLastLineIsSurvived) {
  write(1, 3, 0);
  const std::string whole = text();
  const size_t last_line = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t length = 0; length < whole.size(); length += length < last_line ? 7 : 1) {
    put(whole.substr(0, length));
    std::string header;
    const auto rows = read_metrics(path_, &header);
    if (length >= last_line) {
      // All of the last line but its newline is a whole row.
      EXPECT_EQ(rows.size(), length == whole.size() - 1 ? 3u : 2u) << length;
    }
    { MetricsWriter writer(path_, kHeader, 2); }
    const auto kept = static_cast<int64_t>(read_metrics(path_, &header).size());
    EXPECT_EQ(header, kHeader) << length;
    write(kept + 1, 3, kept);
    ASSERT_EQ(text(), whole) << length;
  }
}

TEST_F(Metrics, ABadLineIsNamedByItsPlace) {
  const std::string good = to_json(row(1)) + '\n';
  EXPECT_TRUE(begins(bad_line_message(good + "{\"step\":\n" + good), path_ + ":3: "));
  EXPECT_TRUE(begins(bad_line_message("\n" + good), path_ + ":2: "));
  EXPECT_TRUE(has(bad_line_message("{\"step\":1,\"tokens\":2}\n"), ":2: no \"loss\""));
  EXPECT_TRUE(has(bad_line_message("{\"step\":-1}\n"), "\"step\""));
  EXPECT_TRUE(has(bad_line_message("{\"step\":1.5}\n"), "\"step\""));
  EXPECT_TRUE(has(bad_line_message("{\"step\":1,\"tokens\":2,\"loss\":\"x\"}\n"), "\"loss\""));
  EXPECT_TRUE(
      has(bad_line_message("{\"step\":1,\"tokens\":18446744073709551615}\n"), "\"tokens\""));
}

TEST_F(Metrics, AFileWithoutItsHeaderIsRefused) {
  put(to_json(row(1)) + '\n');
  EXPECT_THROW(read_metrics(path_, nullptr), InputError);
  EXPECT_THROW(MetricsWriter(path_, kHeader, 0), InputError);
}

TEST_F(Metrics, AMissingFileIsTheUsersMistake) {
  EXPECT_THROW(read_metrics(path_, nullptr), InputError);
}

// Rows that a full disk has no room for come when there is room, each whole.
TEST_F(Metrics, RowsWaitForRoomOnTheDisk) {
  const SmallDisk disk(folder_ / "disk");
  if (!disk.ready()) GTEST_SKIP() << "mounting a tmpfs is not permitted";
  const std::string path = folder_ / "disk/metrics.jsonl";
  MetricsWriter writer(path, kHeader, 0);
  writer.append(row(1));
  std::ofstream filler(folder_ / "disk/filler");
  while (filler << std::string(4096, 'x') << std::flush) {
  }
  for (int64_t step = 2; step <= 100; ++step) writer.append(row(step));
  EXPECT_THROW(writer.flush(), IoError);
  EXPECT_LT(read_metrics(path, nullptr).size(), 100u);
  std::filesystem::remove(folder_ / "disk/filler");
  filler.close();
  writer.append(row(101));
  writer.close();
  const std::vector<StepRow> rows = read_metrics(path, nullptr);
  ASSERT_EQ(rows.size(), 101u);
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i].step, static_cast<int64_t>(i + 1));
}

}  // namespace
}  // namespace rwkv
