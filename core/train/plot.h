// Line plots as inline SVG. Colours are CSS classes (c0 ... c7, of the page's palette), so that one
// picture serves light and dark pages. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rwkv {

struct PlotPoint {
  double x = 0, y = 0;  // a y that is not finite is a gap
};

struct PlotSeries {
  enum class Mark { kLine, kFaint, kDots };
  std::string name = {};
  int colour = 0;  // 0 ... 7
  Mark mark = Mark::kLine;
  std::vector<PlotPoint> points = {};  // x ascending
};

struct Plot {
  std::string title = {};
  std::vector<PlotSeries> series = {};
  std::optional<double> level = {};  // a dashed horizontal line, part of the range
  std::string level_name = {};
  bool log_y = false;                             // obeyed when all that is drawn is > 0
  std::optional<double> y_low = {}, y_high = {};  // else from the data
  int width = 380, height = 240;                  // units of the view box, about pixels
};

// At most 4 points for each of `buckets` equal stretches: its first, lowest, highest and last, in
// their order, so that no extreme is lost. A stretch without a finite y keeps one gap. A series no
// longer than 4 * buckets comes back as it is.
std::vector<PlotPoint> downsample(std::span<const PlotPoint> points, int buckets);

// About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high], low <
// high.
std::vector<double> round_ticks(double low, double high, int count);

// 1, 2 and 5 times powers of ten within [low, high], 0 < low < high; fewer a decade when there are
// many decades.
std::vector<double> log_ticks(double low, double high);

// A <svg> element of well-formed XML; an empty frame when there is nothing to draw.
std::string plot_svg(const Plot&);

}  // namespace rwkv
