#include "core/train/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "core/base/error.h"
#include "core/train/display_text.h"

namespace rwkv {
namespace {

constexpr double kLeft = 58, kRight = 14, kTop = 12, kBottom = 34;
constexpr double kHuge = 1e150;  // beyond it distances overflow; such a value is a gap

bool drawable(double y) { return std::abs(y) < kHuge; }

// From values to places on the picture, one axis.
struct Axis {
  double low = 0, high = 1;  // low < high
  bool log = false;
  double from = 0, to = 1;  // places of low and high

  double place(double value) const {
    const double share =
        log ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
    return from + share * (to - from);
  }
};

struct Bounds {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  bool empty() const { return low > high; }
  void add(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
};

// Equal bounds get a distance, so that a constant series is a line in the middle.
void widen(Bounds& b, double share) {
  if (b.empty()) b = {0, 1};
  const double distance = b.high - b.low;
  const double tiny = 1e-9 * std::max(std::abs(b.low), std::abs(b.high));
  if (distance > tiny && distance > 1e-150) {
    b = {b.low - share * distance, b.high + share * distance};
  } else {
    const double half = b.low == 0 ? 1 : 0.1 * std::abs(b.low) + 1e-140;
    b = {b.low - half, b.high + half};
  }
}

Axis x_axis(const Plot& plot) {
  Bounds b;
  for (const PlotSeries& s : plot.series) {
    for (const PlotPoint& p : s.points) b.add(p.x);
  }
  if (!b.empty() && b.low > 0 && b.low <= 0.05 * b.high) b.low = 0;
  if (b.low == b.high) b = {b.low - 1, b.high + 1};
  widen(b, 0);
  return {b.low, b.high, false, kLeft, plot.width - kRight};
}

Axis y_axis(const Plot& plot) {
  Bounds b;
  for (const PlotSeries& s : plot.series) {
    for (const PlotPoint& p : s.points) {
      if (drawable(p.y)) b.add(p.y);
    }
  }
  if (plot.level && drawable(*plot.level)) b.add(*plot.level);
  Axis axis{0, 1, plot.log_y && !b.empty() && b.low > 0, plot.height - kBottom, kTop};
  if (axis.log) {
    const double factor = std::max(std::pow(b.high / b.low, 0.05), 1.01);
    b = {b.low / factor, b.high * factor};
  } else {
    widen(b, 0.05);
    if (plot.y_low) b.low = *plot.y_low;
    if (plot.y_high) b.high = *plot.y_high;
    if (!(b.low < b.high)) b.high = b.low + 1;
  }
  axis.low = b.low;
  axis.high = b.high;
  return axis;
}

struct Ticks {
  std::vector<double> at;
  // The digits that a label needs: those of the distance to the next tick, or of the tick itself
  // where ticks are powers apart.
  double resolution(double tick) const { return distance > 0 ? distance : std::abs(tick); }
  double distance = 0;
};

Ticks ticks_of(const Axis& axis, int count) {
  if (axis.log) {
    std::vector<double> at = log_ticks(axis.low, axis.high);
    if (at.size() >= 3) return {at, 0};
  }
  const std::vector<double> at = round_ticks(axis.low, axis.high, count);
  return {at, at.size() < 2 ? 0 : at[1] - at[0]};
}

std::string tick_text(double value, double resolution) {
  const double size = std::abs(value);
  if (size < 1e-3 * resolution) return "0";
  if (size >= 1e15 || size < 1e-3) return fmt::format("{:.3g}", value);
  if (size >= 1e4) {
    constexpr std::array<std::string_view, 4> kUnits{"k", "M", "G", "T"};
    const auto unit = std::min<size_t>(static_cast<size_t>(std::log10(size) / 3 + 1e-9) - 1, 3);
    const double scaled = value / std::pow(1000.0, static_cast<double>(unit) + 1);
    return fmt::format("{:.6g}{}", scaled, kUnits[unit]);
  }
  const int decimals = static_cast<int>(std::ceil(-std::log10(resolution) - 1e-9));
  return fmt::format("{:.{}f}", value, std::clamp(decimals, 0, 6));
}

// Steps are whole: no more ticks than there are.
int step_ticks(const Axis& x, const Plot& plot) {
  return static_cast<int>(std::clamp(x.high - x.low, 1.0, std::max(2.0, plot.width / 90.0)));
}

std::string frame(const Plot& plot, const Axis& x, const Axis& y) {
  std::string out;
  const Ticks rows = ticks_of(y, 5), columns = ticks_of(x, step_ticks(x, plot));
  for (const double v : rows.at) {
    const double at = y.place(v);
    out += fmt::format(
        "<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        x.from, x.to, at, at, x.from - 8, at + 4, tick_text(v, rows.resolution(v)));
  }
  for (const double v : columns.at) {
    const double at = x.place(v);
    out += fmt::format(
        "<line class=\"tick\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
        at, at, y.from, y.from + 4, at, y.from + 17, tick_text(v, columns.resolution(v)));
  }
  return out + fmt::format(
                   "<line class=\"axis\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
                   "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">step</text>\n",
                   x.from, x.to, y.from, y.from, (x.from + x.to) / 2, y.from + 31);
}

std::string dot(const PlotSeries& s, const Axis& x, const Axis& y, const PlotPoint& p,
                double radius) {
  return fmt::format(
      "<circle class=\"dot c{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}: {:.6g} at step "
      "{}</title></circle>\n",
      s.colour, x.place(p.x), y.place(p.y), radius, escape_markup(s.name), p.y, p.x);
}

// A path for each run of finite points; a lone point is a dot, as a path of it would not be seen.
std::string line(const PlotSeries& s, const Axis& x, const Axis& y) {
  const std::vector<PlotPoint> points = downsample(s.points, static_cast<int>(x.to - x.from));
  std::string path, dots;
  for (size_t i = 0; i < points.size();) {
    if (!drawable(points[i].y)) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < points.size() && drawable(points[end].y)) ++end;
    if (end - i == 1) dots += dot(s, x, y, points[i], 2.5);
    for (size_t k = i; end - i > 1 && k < end; ++k) {
      path += fmt::format("{}{:.1f} {:.1f}", k == i ? 'M' : 'L', x.place(points[k].x),
                          y.place(points[k].y));
    }
    i = end;
  }
  if (path.empty()) return dots;
  const std::string_view kind = s.mark == PlotSeries::Mark::kFaint ? "faint" : "line";
  return fmt::format("<path class=\"{} c{}\" d=\"{}\"/>\n", kind, s.colour, path) + dots;
}

std::string dots(const PlotSeries& s, const Axis& x, const Axis& y) {
  std::string out;
  for (const PlotPoint& p : downsample(s.points, 100)) {
    if (drawable(p.y)) out += dot(s, x, y, p, 3.5);
  }
  return out;
}

std::string level_line(const Plot& plot, const Axis& x, const Axis& y) {
  if (!plot.level || !drawable(*plot.level)) return "";
  const double at = y.place(*plot.level);
  return fmt::format(
      "<line class=\"level\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
      "<text class=\"level-name\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{} {:.4g}</text>\n",
      x.from, x.to, at, at, x.to - 4, at - 5, escape_markup(plot.level_name), *plot.level);
}

}  // namespace

std::vector<PlotPoint> downsample(std::span<const PlotPoint> points, int buckets) {
  require(buckets > 0, "downsampling needs a bucket");
  const auto stretches = static_cast<size_t>(buckets);
  if (points.size() <= 4 * stretches) return {points.begin(), points.end()};
  std::vector<PlotPoint> out;
  for (size_t b = 0; b < stretches; ++b) {
    const size_t begin = b * points.size() / stretches, end = (b + 1) * points.size() / stretches;
    std::vector<size_t> kept;
    size_t low = end, high = end;
    for (size_t i = begin; i < end; ++i) {
      if (!drawable(points[i].y)) continue;
      if (kept.empty()) kept.push_back(i);
      if (low == end || points[i].y < points[low].y) low = i;
      if (high == end || points[i].y > points[high].y) high = i;
      if (kept.size() < 2) kept.push_back(i);
      kept[1] = i;
    }
    if (kept.empty()) {
      out.push_back(points[begin]);
      continue;
    }
    kept.insert(kept.end(), {low, high});
    std::sort(kept.begin(), kept.end());
    kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
    for (const size_t i : kept) out.push_back(points[i]);
  }
  return out;
}

std::vector<double> round_ticks(double low, double high, int count) {
  require(low < high && count > 0, "ticks need a range");
  const double wanted = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(wanted)));
  const double digit = wanted / power;
  const double step = power * (digit < 1.5 ? 1 : digit < 3 ? 2 : digit < 7 ? 5 : 10);
  std::vector<double> ticks;
  const double slack = 1e-9 * step;
  double multiple = std::ceil((low - slack) / step);
  for (int i = 0; i < 4 * count && multiple * step <= high + slack; ++i, ++multiple) {
    ticks.push_back(multiple * step);
  }
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  require(low > 0 && low < high, "logarithmic ticks need a range above zero");
  const int first = static_cast<int>(std::floor(std::log10(low)));
  const int last = static_cast<int>(std::floor(std::log10(high)));
  const int stride = std::max(1, (last - first + 5) / 6);
  std::vector<double> ticks;
  for (int decade = first; decade <= last; ++decade) {
    if ((decade - first) % stride != 0) continue;
    for (const double digit : {1.0, 2.0, 5.0}) {
      if (digit > 1 && last - first > 2) break;
      const double tick = digit * std::pow(10.0, decade);
      if (tick >= low && tick <= high) ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string plot_svg(const Plot& plot) {
  const Axis x = x_axis(plot), y = y_axis(plot);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" "
      "aria-label=\"{}\">\n",
      plot.width, plot.height, escape_markup(plot.title));
  out += frame(plot, x, y);
  for (const PlotSeries& s : plot.series) {
    out += s.mark == PlotSeries::Mark::kDots ? dots(s, x, y) : line(s, x, y);
  }
  return out + level_line(plot, x, y) + "</svg>\n";
}

}  // namespace rwkv
