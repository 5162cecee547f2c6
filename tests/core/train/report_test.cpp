#include "core/train/report.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "core/base/rng.h"
#include "core/train/plot.h"
#include "tests/core/train/display_checks.h"

namespace rwkv {
namespace {

using namespace test;

// What is wrong with `page` as XML, or an empty text: tags balanced, attributes quoted, references
// known, no control characters.
class MarkupChecker {
 public:
  explicit MarkupChecker(std::string_view page) : page_(page) {}

  std::string fault() {
    if (!page_.starts_with("<!DOCTYPE html>\n")) return "no document type";
    at_ = 16;
    while (at_ < page_.size()) {
      const std::string fault = page_[at_] == '<' ? tag() : text();
      if (!fault.empty()) return fault + " at " + std::to_string(at_);
    }
    return open_.empty() ? "" : "not closed: " + open_.back();
  }

 private:
  std::string text() {
    const char c = page_[at_];
    if (c == '>') return "a bare >";
    if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t')
      return "a control character";
    if (c == '&') return reference();
    ++at_;
    return "";
  }

  std::string reference() {
    for (const std::string_view known : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"}) {
      if (!page_.substr(at_).starts_with(known)) continue;
      at_ += known.size();
      return "";
    }
    return "an unknown reference";
  }

  std::string tag() {
    const size_t end = page_.find('>', at_);
    if (end == std::string_view::npos) return "a tag without end";
    std::string_view inside = page_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    if (inside.starts_with('/')) {
      if (open_.empty() || open_.back() != inside.substr(1)) return "closes another tag";
      open_.pop_back();
      return "";
    }
    const bool closed = inside.ends_with('/');
    if (closed) inside.remove_suffix(1);
    const size_t name = std::min(inside.find(' '), inside.size());
    if (!closed) open_.emplace_back(inside.substr(0, name));
    return attributes(inside.substr(name));
  }

  static std::string attributes(std::string_view rest) {
    while (!rest.empty()) {
      if (rest[0] != ' ') return "attributes run together";
      const size_t equal = rest.find("=\"");
      const size_t end = equal == rest.npos ? rest.npos : rest.find('"', equal + 2);
      if (end == rest.npos) return "an attribute without a value";
      if (rest.substr(equal + 2, end - equal - 2).find('<') != rest.npos) return "a bare <";
      rest.remove_prefix(end + 1);
    }
    return "";
  }

  std::string_view page_;
  size_t at_ = 0;
  std::vector<std::string> open_;
};

std::string fault_of(std::string_view page) { return MarkupChecker(page).fault(); }

std::vector<StepRow> example_rows(int64_t count) {
  const Philox random(3);
  std::vector<StepRow> rows;
  for (int64_t step = 1; step <= count; ++step) {
    const auto counter = static_cast<uint64_t>(step);
    rows.push_back({.step = step,
                    .tokens = 2048 * step,
                    .loss = 0.3 + 5 / static_cast<double>(step) + 0.05 * random.uniform(counter),
                    .grad_norm = 0.5 + random.uniform(counter, 1),
                    .lr = 6e-4,
                    .seconds = 0.5,
                    .tokens_per_s = 4096,
                    .floor = 0.25,
                    .skills = {{"reverse", random.uniform(counter, 2)}}});
  }
  return rows;
}

RunFiles example(int64_t rows) {
  return {.name = "base",
          .recipe = "model:\n  layers: 2\n",
          .header = R"({"run":"base","machine":"laptop","numerics":"cpu-1"})",
          .rows = example_rows(rows)};
}

size_t count_of(std::string_view text, std::string_view word) {
  size_t count = 0;
  for (size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) ++count;
  return count;
}

TEST(Report, IsWellFormedForAnyNumberOfRows) {
  for (const int64_t rows : {0, 1, 2, 3, 99, 100, 101, 5000}) {
    EXPECT_EQ(fault_of(report_page(example(rows))), "") << rows;
  }
}

TEST(Report, TheCheckerOfTheseTestsFindsFaults) {
  const std::string good = report_page(example(1));
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"</table>", ""}, {"<td>", "<td>&"}, {"<td>", "<td>\x1b"}, {"<td>", "<td a=b>"}}) {
    std::string bad = good;
    bad.replace(bad.find(from), from.size(), to);
    EXPECT_NE(fault_of(bad), "") << from << " -> " << to;
  }
}

TEST(Report, FetchesNothingAndRunsNothing) {
  const std::string page = report_page(example(200));
  for (const char* word : {"<script", "<link", "<img", "src=", "href=", "url(", "@import"}) {
    EXPECT_FALSE(has(page, word));
  }
  EXPECT_EQ(count_of(page, "http"),
            count_of(page, "http://www.w3.org/") + count_of(page, "http-equiv"));
}

TEST(Report, IsAFunctionOfItsInput) {
  EXPECT_EQ(report_page(example(300)), report_page(example(300)));
  EXPECT_NE(report_page(example(300)), report_page(example(299)));
}

TEST(Report, ShowsAPlotOfEachKindAndTheSkillsOnlyWhenGraded) {
  RunFiles files = example(10);
  EXPECT_EQ(count_of(report_page(files), "<svg"), 5u);
  for (StepRow& row : files.rows) row.skills.clear();
  EXPECT_EQ(count_of(report_page(files), "<svg"), 4u);
  files.rows.clear();
  EXPECT_EQ(count_of(report_page(files), "<svg"), 0u);
  EXPECT_TRUE(has(report_page(files), "No step has been recorded yet"));
}

TEST(Report, ShowsTheFloorAsADashedLineWhenItIsKnown) {
  RunFiles files = example(10);
  EXPECT_EQ(count_of(report_page(files), "class=\"level\""), 1u);
  EXPECT_TRUE(has(report_page(files), "entropy floor 0.2500"));
  for (StepRow& row : files.rows) row.floor = {};
  EXPECT_EQ(count_of(report_page(files), "class=\"level\""), 0u);
  files.header = R"({"run":"base","floor":0.125})";
  EXPECT_TRUE(has(report_page(files), "entropy floor 0.1250"));
}

TEST(Report, ShowsEvaluationsAsPoints) {
  RunFiles files = example(200);
  const size_t before = count_of(report_page(files), "<circle");
  files.rows[49].eval_loss = 0.75;
  files.rows[199].eval_loss = 0.5;
  const std::string page = report_page(files);
  EXPECT_EQ(count_of(page, "<circle"), before + 2);
  EXPECT_TRUE(has(page, "<title>evaluation: 0.75 at step 50</title>"));
  EXPECT_TRUE(has(page, "0.5000 at step 200"));
}

TEST(Report, EscapesWhatItWasGiven) {
  RunFiles files = example(2);
  files.name = "<b>&\"'";
  files.recipe = "a: </pre><script>alert(1)</script> \x1b \xff";
  files.header = R"({"machine":"</td><script>"})";
  files.rows[0].skills = {{"</svg><script>", 0.5}};
  const std::string page = report_page(files);
  EXPECT_EQ(fault_of(page), "");
  EXPECT_FALSE(has(page, "<script"));
  EXPECT_TRUE(has(page, "<h1>&lt;b&gt;&amp;&quot;&#39;</h1>"));
  EXPECT_TRUE(has(page, "\xef\xbf\xbd \xef\xbf\xbd</pre>"));
}

TEST(Report, SaysWhichLossesWereNotFinite) {
  RunFiles files = example(300);
  files.rows[99].loss = kNaN;
  files.rows[100].loss = kInf;
  const std::string page = report_page(files);
  EXPECT_TRUE(has(page, "2 steps, the first of them 100"));
  EXPECT_EQ(fault_of(page), "");
}

TEST(Report, NeverDrawsANumberThatIsNone) {
  RunFiles files = example(150);
  for (size_t i = 0; i < files.rows.size(); ++i) {
    StepRow& row = files.rows[i];
    const double odd = i % 3 == 0 ? kNaN : i % 3 == 1 ? kInf : 1.7e308;
    row.loss = row.grad_norm = row.lr = row.tokens_per_s = row.seconds = odd;
    row.eval_loss = row.floor = row.skills[0].second = odd;
  }
  const std::string page = report_page(files);
  EXPECT_EQ(fault_of(page), "");
  for (size_t at = page.find("<svg"); at != page.npos; at = page.find("<svg", at + 1)) {
    const std::string svg = page.substr(at, page.find("</svg>", at) - at);
    EXPECT_EQ(svg.find("nan"), svg.npos);
    EXPECT_EQ(svg.find("inf"), svg.npos);
  }
}

TEST(Report, StaysSmallForALongRun) { EXPECT_LT(report_page(example(120000)).size(), 1u << 20); }

class ReportFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "rwkv_report_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void put(const char* file, const std::string& text) const {
    std::ofstream(folder_ / file, std::ios::binary) << text;
  }
  std::filesystem::path folder_;
};

TEST_F(ReportFolder, IsWrittenFromTheFilesOfARun) {
  put("config.yaml",
      "model: {layers: 3, width: 128, vocab: 257}\ntrain: {context: 64, batch: 4, steps: 40}\n");
  {
    MetricsWriter writer((folder_ / "metrics.jsonl").string(), R"({"machine":"a laptop"})", 0);
    for (const StepRow& row : example_rows(20)) writer.append(row);
  }
  write_report(folder_.string() + "/");
  const std::string page = read_file((folder_ / "report.html").string());
  EXPECT_EQ(fault_of(page), "");
  EXPECT_TRUE(has(page, "<h1>" + folder_.filename().string() + "</h1>"));
  EXPECT_TRUE(has(page, "3 layers × width 128"));
  EXPECT_TRUE(has(page, "20 of 40"));
  EXPECT_TRUE(has(page, "a laptop"));
  EXPECT_TRUE(has(page, "train: {context: 64, batch: 4, steps: 40}"));
}

TEST_F(ReportFolder, ARecipeOfAnotherVersionIsStillShown) {
  put("config.yaml", "not_a_key: 1\n");
  put("metrics.jsonl", "{\"run\":\"x\"}\n");
  write_report(folder_.string());
  EXPECT_TRUE(has(read_file((folder_ / "report.html").string()), "not_a_key: 1"));
}

TEST_F(ReportFolder, AFolderThatIsNoRunIsTheUsersMistake) {
  EXPECT_THROW(write_report(folder_.string()), InputError);
  put("config.yaml", "run: {}\n");
  EXPECT_THROW(write_report(folder_.string()), InputError);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "report.html"));
}

TEST(Downsample, KeepsEveryExtreme) {
  std::vector<PlotPoint> points;
  for (int i = 0; i < 100000; ++i) points.push_back({static_cast<double>(i), 1});
  points[12345].y = 9;
  points[12346].y = -7;
  points[99999].y = 5;
  const auto kept = downsample(points, 300);
  EXPECT_LE(kept.size(), 1200u);
  for (const size_t i : {0u, 12345u, 12346u, 99999u}) {
    EXPECT_TRUE(std::any_of(kept.begin(), kept.end(), [&](const PlotPoint& p) {
      return p.x == points[i].x && p.y == points[i].y;
    })) << i;
  }
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end(),
                             [](const auto& a, const auto& b) { return a.x < b.x; }));
}

TEST(Downsample, KeepsGapsAndShortSeries) {
  std::vector<PlotPoint> points;
  for (int i = 0; i < 10000; ++i) {
    points.push_back({static_cast<double>(i), i >= 4000 && i < 6000 ? kNaN : 1.0});
  }
  const auto kept = downsample(points, 50);
  EXPECT_TRUE(
      std::any_of(kept.begin(), kept.end(), [](const PlotPoint& p) { return std::isnan(p.y); }));
  EXPECT_EQ(downsample(std::span(points).first(200), 50).size(), 200u);
}

TEST(Ticks, AreRoundNumbers) {
  EXPECT_EQ(round_ticks(0, 2000, 5), (std::vector<double>{0, 500, 1000, 1500, 2000}));
  EXPECT_EQ(round_ticks(0.1, 4.2, 4), (std::vector<double>{1, 2, 3, 4}));
  EXPECT_EQ(log_ticks(0.15, 6), (std::vector<double>{0.2, 0.5, 1, 2, 5}));
  for (const double low : {-1e100, -3.0, 1e-9, 7e8}) {
    const auto ticks = round_ticks(low, low + std::abs(low) * 0.37, 5);
    EXPECT_GE(ticks.size(), 2u) << low;
    EXPECT_LE(ticks.size(), 10u) << low;
  }
  EXPECT_LE(log_ticks(1e-140, 1e140).size(), 8u);
}

TEST(Plot, BreaksTheLineAtAGap) {
  Plot plot;
  plot.series = {
      {.name = "x", .points = {{1, 1}, {2, 2}, {3, kNaN}, {4, 4}, {5, 5}, {6, kNaN}, {7, 3}}}};
  const std::string svg = plot_svg(plot);
  const size_t path = svg.find(" d=\"");
  ASSERT_NE(path, svg.npos);
  EXPECT_EQ(count_of(svg.substr(path, svg.find("/>", path) - path), "M"), 2u);
  EXPECT_EQ(count_of(svg, "<circle"), 1u);  // the lone last point
}

TEST(Plot, TicksOfStepsAreWhole) {
  Plot plot;
  plot.series = {{.points = {{7, 1}}}};
  for (const char* text : {">6<", ">7<", ">8<"}) EXPECT_TRUE(has(plot_svg(plot), text));
}

TEST(Plot, LogarithmicAxisGivesWayWhenAValueIsZero) {
  Plot plot{.log_y = true};
  plot.series = {{.points = {{1, 0}, {2, 100}}}};
  EXPECT_TRUE(has(plot_svg(plot), ">0<"));
}

}  // namespace
}  // namespace rwkv
