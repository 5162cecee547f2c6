#include "core/train/console.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "core/train/display_text.h"
#include "core/train/sparkline.h"
#include "tests/core/train/display_checks.h"

namespace rwkv {
namespace {

using namespace test;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

StepRow example_row() {
  return {.step = 600,
          .tokens = 1228800,
          .loss = 0.432,
          .grad_norm = 0.41,
          .lr = 4.9e-3,
          .seconds = 0.025,
          .tokens_per_s = 83000,
          .skills = {{"reverse", 0.97}, {"where", 0.2}}};
}

TEST(HumanCount, HasThreeDigitsAndAUnit) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(128), "128");
  EXPECT_EQ(human_count(83.46), "83.5");
  EXPECT_EQ(human_count(2048), "2.0k");
  EXPECT_EQ(human_count(70123), "70.1k");
  EXPECT_EQ(human_count(204800), "205k");
  EXPECT_EQ(human_count(1228800), "1.23M");
  EXPECT_EQ(human_count(4096000), "4.10M");
  EXPECT_EQ(human_count(12.34e9), "12.3G");
  EXPECT_EQ(human_count(-1500), "-1.5k");
}

TEST(HumanCount, RoundsUpIntoTheNextUnit) {
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(999.7), "1.0k");
  EXPECT_EQ(human_count(99960), "100k");
  EXPECT_EQ(human_count(999600), "1.00M");
  EXPECT_EQ(human_count(9.996e6), "10.0M");
}

TEST(HumanBytes, UsesPowersOf1024) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(60 << 20), "60 MiB");
  EXPECT_EQ(human_bytes((1 << 20) - 1), "1.0 MiB");
}

TEST(HumanTime, ShowsWhatIsNeeded) {
  EXPECT_EQ(human_time(0), "0:00");
  EXPECT_EQ(human_time(58), "0:58");
  EXPECT_EQ(human_time(59.7), "1:00");
  EXPECT_EQ(human_time(3723), "1:02:03");
  EXPECT_EQ(human_time(2 * 86400 + 3 * 3600 + 4 * 60 + 5), "2d 03:04:05");
  for (const double unknown : {kNaN, kInf, -1.0}) EXPECT_EQ(human_time(unknown), "--:--");
}

TEST(DisplayWidth, CountsColumnsNotBytes) {
  EXPECT_EQ(display_width("where"), 5);
  EXPECT_EQ(display_width("größe"), 5);
  EXPECT_EQ(display_width("e\u0301"), 1);
  EXPECT_EQ(display_width("日本"), 4);
  EXPECT_EQ(display_width("▁█"), 2);
}

TEST(EscapeControls, LeavesNothingThatATerminalActsUpon) {
  EXPECT_EQ(escape_controls("a\x1b[31mb\n\t\r\x7f"), "a\\x1b[31mb\\n\\t\\r\\x7f");
  EXPECT_EQ(escape_controls("\xc2\x9b"
                            "2J"),
            "\\u009b2J");  // CSI of one character
  EXPECT_EQ(escape_controls("\xe2\x80\xae"
                            "x"),
            "\\u202ex");  // right-to-left override
  EXPECT_EQ(escape_controls("\xff\xc3("), "\\xff\\xc3(");
  EXPECT_EQ(escape_controls(std::string_view("\0x", 2)), "\\x00x");
  EXPECT_EQ(escape_controls("größe 日本 \\n"), "größe 日本 \\n");
}

TEST(LogTable, LooksAsDocumented) {
  const LogTable table{.skills = {"reverse", "where"}};
  EXPECT_EQ(log_header(table),
            "  step  tokens    loss  reverse  where    gnorm       lr   tok/s      eta\n");
  EXPECT_EQ(log_row(table, example_row(), 35),
            "   600   1.23M  0.4320     0.97   0.20     0.41  4.9e-03   83.0k     0:35\n");
}

TEST(LogTable, RowsAreAsWideAsTheHeader) {
  const LogTable table{.skills = {"größe", "日本", "a"}, .eval = true};
  StepRow row = example_row();
  row.loss = kNaN;
  row.grad_norm = 1.5e7;
  row.eval_loss = 12345.6;
  const int width = display_width(log_header(table));
  EXPECT_EQ(display_width(log_row(table, row, kNaN)), width);
  EXPECT_EQ(display_width(log_row(table, example_row(), 3600)), width);
}

TEST(LogTable, HasColumnsOnlyForWhatTheRunMeasures) {
  EXPECT_FALSE(has(log_header({}), "eval"));
  EXPECT_FALSE(has(log_header({}), "reverse"));
  EXPECT_FALSE(has(log_row({}, example_row(), 0), "0.97"));
  EXPECT_TRUE(has(log_header({.eval = true}), "eval"));
}

TEST(LogTable, AValueThatIsMissingIsADash) {
  const LogTable table{.skills = {"other"}, .eval = true};
  EXPECT_TRUE(has(log_row(table, example_row(), 0), "  0.4320       -      -     0.41"));
}

TEST(LogTable, ColumnsNeverRunTogether) {
  StepRow row = example_row();
  row.step = 12345678;
  row.loss = -1.5e100;
  EXPECT_TRUE(begins(log_row({}, row, 200000), "12345678   1.23M -1.5e+100"));
}

TEST(LogTable, ColourIsAnOption) {
  LogTable table{.skills = {"where"}};
  EXPECT_FALSE(has(log_header(table) + log_row(table, example_row(), 1, "warning: x"), "\x1b"));
  table.colour = true;
  EXPECT_TRUE(has(log_header(table), "\x1b[1m"));
  EXPECT_TRUE(has(log_row(table, example_row(), 1, "warning: x"), "\x1b[33mwarning: x\x1b[0m"));
}

TEST(FirstLossNote, ConfirmsALossNearLnVocab) {
  EXPECT_EQ(first_loss_note(5.65, 257), "(ln 257 = 5.549: as it should be)");
  EXPECT_EQ(first_loss_note(5.26, 257), "(ln 257 = 5.549: as it should be)");
}

TEST(FirstLossNote, WarnsOfAnyOther) {
  for (const double loss : {5.2, 5.9, 0.0, kNaN, kInf}) {
    EXPECT_TRUE(begins(first_loss_note(loss, 257), "warning: ")) << loss;
    EXPECT_TRUE(has(first_loss_note(loss, 257), "ln 257 = 5.549"));
  }
}

TEST(Banner, AlignsWhatItHas) {
  const Banner b{.program = "rwkv-dist 0.1.0", .host = "laptop", .memory = "60 MiB\x1b[2J"};
  EXPECT_EQ(banner(b, false), "rwkv-dist 0.1.0\nhost    laptop\nmemory  60 MiB\\x1b[2J\n");
  EXPECT_TRUE(has(banner(b, true), "\x1b[1mrwkv-dist 0.1.0\x1b[0m\n"));
}

TEST(Sparkline, SpansTheSeries) {
  const std::vector<double> rising{0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(sparkline(rising, 8), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(sparkline(rising, 4), "▁▃▆█");
  EXPECT_EQ(sparkline(rising, 100), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(sparkline(std::vector<double>{0.5, 1, 3}, 3, ValueSpan{0, 1}), "▅██");
}

TEST(Sparkline, TakesAnySeries) {
  EXPECT_EQ(sparkline({}, 8), "");
  EXPECT_EQ(sparkline(std::vector<double>{2, 2, 2}, 3), "▄▄▄");
  EXPECT_EQ(sparkline(std::vector<double>{1, kNaN, kInf, 0}, 4), "█  ▁");
  EXPECT_EQ(sparkline(std::vector<double>{kNaN, kNaN}, 2), "  ");
  EXPECT_EQ(sparkline(std::vector<double>{-1.7e308, 1.7e308}, 2), "▁█");
  EXPECT_EQ(sparkline(std::vector<double>{1, 2}, 0), "");
}

TEST(Summary, ShowsSeriesSampleAndWhatIsNext) {
  std::vector<StepRow> rows(2, example_row());
  rows[0].loss = 5.549;
  rows[0].skills[0].second = 0.07;
  rows[1].eval_loss = 0.45;
  const Summary s{.rows = rows,
                  .skills = {"reverse"},
                  .floor = 0.208,
                  .sample_title = "temperature 0.5",
                  .sample = "Ann took\x1b the key.\nWhere?",
                  .lines = {{"saved", "runs/base"}, {"next", "one"}, {"", "two"}}};
  EXPECT_EQ(summary(s, false),
            "loss     █▁  5.549 -> 0.432   floor 0.208\n"
            "eval     ▄  0.450 -> 0.450\n"
            "reverse  ▁█  0.07 -> 0.97\n"
            "sample (temperature 0.5)\n"
            "  Ann took\\x1b the key.\n"
            "  Where?\n"
            "saved    runs/base\n"
            "next     one\n"
            "         two\n");
}

TEST(Summary, OfARunWithoutAStepOrAFiniteLoss) {
  EXPECT_EQ(summary({}, false), "");
  StepRow row = example_row();
  row.loss = kNaN;
  const std::vector<StepRow> rows{row, row};
  EXPECT_EQ(lines_of(summary({.rows = rows}, false)).at(0), "loss        no finite value");
}

}  // namespace
}  // namespace rwkv
