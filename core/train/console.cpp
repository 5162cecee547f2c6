#include "core/train/console.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/train/display_text.h"
#include "core/train/sparkline.h"

namespace rwkv {
namespace {

constexpr int kSparklineWidth = 32;
constexpr double kFirstLossTolerance = 0.3;  // nats: initialisation adds about 0.12 to ln V
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

enum class Paint { kDim, kBold, kWarning };

std::string painted(std::string_view text, Paint paint, bool colour) {
  if (!colour || text.empty()) return std::string(text);
  constexpr std::array<std::string_view, 3> kCodes{"2", "1", "33"};
  return fmt::format("\x1b[{}m{}\x1b[0m", kCodes[static_cast<size_t>(paint)], text);
}

std::string spaces(int count) { return std::string(static_cast<size_t>(std::max(count, 0)), ' '); }
std::string right(std::string_view text, int width) {
  return spaces(width - display_width(text)) + std::string(text);
}
std::string left(std::string_view text, int width) {
  return std::string(text) + spaces(width - display_width(text));
}

struct Cell {
  std::string title, text;
  int width = 0;  // with the space before it
};

std::string loss_text(double loss) {
  if (!std::isfinite(loss)) return fmt::format("{}", loss);
  return std::abs(loss) < 1000 ? fmt::format("{:.4f}", loss) : fmt::format("{:.1e}", loss);
}

std::string norm_text(double norm) {
  const bool plain = norm == 0 || (norm >= 0.01 && norm < 1000);
  return plain ? fmt::format("{:.2f}", norm) : fmt::format("{:.1e}", norm);
}

double skill_of(const StepRow& row, std::string_view name) {
  for (const auto& [skill, accuracy] : row.skills) {
    if (skill == name) return accuracy;
  }
  return kNaN;
}

std::string share_text(double share) {
  return std::isnan(share) ? "-" : fmt::format("{:.2f}", share);
}

// The one list of columns, for the header and for every row.
std::vector<Cell> cells(const LogTable& table, const StepRow& row, double eta_seconds) {
  std::vector<Cell> out{{"step", fmt::format("{}", row.step), 6},
                        {"tokens", human_count(static_cast<double>(row.tokens)), 8},
                        {"loss", loss_text(row.loss), 8}};
  if (table.eval) out.push_back({"eval", row.eval_loss ? loss_text(*row.eval_loss) : "-", 8});
  for (const std::string& name : table.skills) {
    const std::string title = escape_controls(name);
    out.push_back({title, share_text(skill_of(row, name)), std::max(display_width(title) + 2, 7)});
  }
  out.push_back({"gnorm", norm_text(row.grad_norm), 9});
  out.push_back({"lr", fmt::format("{:.1e}", row.lr), 9});
  out.push_back({"tok/s", human_count(row.tokens_per_s), 8});
  out.push_back({"eta", human_time(eta_seconds), 9});
  return out;
}

// A number and a unit of a ladder; three digits, but no more than the first unit needs.
std::string scaled(double value, std::span<const std::string_view> units) {
  double size = std::abs(value);
  size_t unit = 0;
  // 999.5 of a unit would round to 1000 of it.
  while (size >= 999.5 && unit + 1 < units.size()) {
    size /= 1000;
    ++unit;
  }
  const int decimals = unit == 0       ? (size == std::floor(size) || size >= 99.95 ? 0 : 1)
                       : size >= 99.95 ? 0
                       : size >= 9.995 || unit == 1 ? 1
                                                    : 2;
  return fmt::format("{}{:.{}f}{}", value < 0 ? "-" : "", size, decimals, units[unit]);
}

std::string first_to_last(std::span<const double> values, int decimals) {
  const auto finite = [](double v) { return std::isfinite(v); };
  const auto first = std::find_if(values.begin(), values.end(), finite);
  const auto last = std::find_if(values.rbegin(), values.rend(), finite);
  if (first == values.end()) return "no finite value";
  return fmt::format("{:.{}f} -> {:.{}f}", *first, decimals, *last, decimals);
}

struct Line {
  std::string label, text;
};

std::vector<Line> series_lines(const Summary& s) {
  std::vector<Line> out;
  if (s.rows.empty()) return out;
  const auto loss = column(s.rows, [](const StepRow& row) { return row.loss; });
  // Of logarithms: the first steps would flatten all that follows.
  const auto shape = column(s.rows, [](const StepRow& row) { return std::log(row.loss); });
  const std::string floor = s.floor ? fmt::format("   floor {:.3f}", *s.floor) : "";
  out.push_back(
      {"loss", sparkline(shape, kSparklineWidth) + "  " + first_to_last(loss, 3) + floor});
  auto eval = column(s.rows, [](const StepRow& row) { return row.eval_loss.value_or(kNaN); });
  std::erase_if(eval, [](double v) { return std::isnan(v); });
  if (!eval.empty()) {
    out.push_back({"eval", sparkline(eval, kSparklineWidth) + "  " + first_to_last(eval, 3)});
  }
  for (const std::string& name : s.skills) {
    const auto shares = column(s.rows, [&](const StepRow& row) { return skill_of(row, name); });
    out.push_back({escape_controls(name), sparkline(shares, kSparklineWidth, ValueSpan{0, 1}) +
                                              "  " + first_to_last(shares, 2)});
  }
  return out;
}

std::string labelled(std::span<const Line> lines, int width, bool colour) {
  std::string out;
  for (const Line& line : lines) {
    out += painted(left(line.label, width), Paint::kDim, colour) + line.text + '\n';
  }
  return out;
}

std::string sample_block(const Summary& s, bool colour) {
  if (s.sample.empty()) return "";
  const std::string title =
      s.sample_title.empty() ? "sample" : "sample (" + escape_controls(s.sample_title) + ")";
  std::string out = painted(title, Paint::kDim, colour) + '\n';
  for (size_t begin = 0; begin <= s.sample.size();) {
    const size_t end = std::min(s.sample.find('\n', begin), s.sample.size());
    out += "  " + escape_controls(std::string_view(s.sample).substr(begin, end - begin)) + '\n';
    begin = end + 1;
  }
  return out;
}

}  // namespace

std::string human_count(double value) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  constexpr std::array<std::string_view, 6> kUnits{"", "k", "M", "G", "T", "P"};
  return scaled(value, kUnits);
}

std::string human_bytes(int64_t bytes) {
  constexpr std::array<std::string_view, 6> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double size = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(size) >= 1023.5 && unit + 1 < kUnits.size()) {
    size /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", size, unit > 0 && std::abs(size) < 9.95 ? 1 : 0, kUnits[unit]);
}

std::string human_time(double seconds) {
  constexpr double kLongest = 1e9;  // three decades: no longer a prediction
  if (!(seconds >= 0 && seconds < kLongest)) return "--:--";
  const auto all = static_cast<int64_t>(std::llround(seconds));
  const int64_t s = all % 60, m = all / 60 % 60, h = all / 3600 % 24, d = all / 86400;
  if (d > 0) return fmt::format("{}d {:02}:{:02}:{:02}", d, h, m, s);
  if (h > 0) return fmt::format("{}:{:02}:{:02}", h, m, s);
  return fmt::format("{}:{:02}", m, s);
}

std::string banner(const Banner& b, bool colour) {
  std::vector<Line> lines;
  for (const Line& line : {Line{"host", b.host}, Line{"model", b.model}, Line{"data", b.data},
                           Line{"memory", b.memory}, Line{"run", b.run}}) {
    if (!line.text.empty()) lines.push_back({line.label, escape_controls(line.text)});
  }
  return painted(escape_controls(b.program), Paint::kBold, colour) + '\n' +
         labelled(lines, 8, colour);
}

std::string log_header(const LogTable& table) {
  std::string line;
  for (const Cell& cell : cells(table, {}, 0)) line += right(cell.title, cell.width);
  return painted(line, Paint::kBold, table.colour) + '\n';
}

std::string log_row(const LogTable& table, const StepRow& row, double eta_seconds,
                    std::string_view note) {
  std::string line;
  for (const Cell& cell : cells(table, row, eta_seconds)) {
    // A text too wide for its column still keeps its distance from the one before.
    line +=
        right(cell.text, std::max(cell.width, display_width(cell.text) + (line.empty() ? 0 : 1)));
  }
  if (!note.empty()) {
    const bool warns = note.starts_with("warning");
    line += "   " + painted(note, warns ? Paint::kWarning : Paint::kDim, table.colour);
  }
  return line + '\n';
}

std::string first_loss_note(double loss, int64_t vocab) {
  const double expected = std::log(static_cast<double>(vocab));
  if (std::abs(loss - expected) <= kFirstLossTolerance) {
    return fmt::format("(ln {} = {:.3f}: as it should be)", vocab, expected);
  }
  return fmt::format(
      "warning: a fresh model starts near ln {} = {:.3f}; check the data, model.vocab and "
      "precision",
      vocab, expected);
}

std::string summary(const Summary& s, bool colour) {
  const std::vector<Line> series = series_lines(s);
  std::vector<Line> lines;
  for (const auto& [label, text] : s.lines) lines.push_back({label, escape_controls(text)});
  int width = 6;
  for (const Line& line : series) width = std::max(width, display_width(line.label));
  for (const Line& line : lines) width = std::max(width, display_width(line.label));
  return labelled(series, width + 2, colour) + sample_block(s, colour) +
         labelled(lines, width + 2, colour);
}

}  // namespace rwkv
