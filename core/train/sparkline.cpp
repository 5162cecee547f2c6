#include "core/train/sparkline.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>
#include <vector>

#include "core/base/error.h"

namespace rwkv {
namespace {

constexpr std::array<std::string_view, 8> kBlocks{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

double mean_of_finite(std::span<const double> values) {
  double sum = 0, count = 0;
  for (const double v : values) {
    if (!std::isfinite(v)) continue;
    sum += v;
    ++count;
  }
  return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

std::vector<double> means(std::span<const double> values, size_t stretches) {
  std::vector<double> out(stretches);
  for (size_t i = 0; i < stretches; ++i) {
    const size_t begin = i * values.size() / stretches;
    const size_t end = (i + 1) * values.size() / stretches;
    out[i] = mean_of_finite(values.subspan(begin, end - begin));
  }
  return out;
}

ValueSpan range_of(std::span<const double> values) {
  ValueSpan range{std::numeric_limits<double>::infinity(),
                  -std::numeric_limits<double>::infinity()};
  for (const double v : values) {
    if (!std::isfinite(v)) continue;
    range.low = std::min(range.low, v);
    range.high = std::max(range.high, v);
  }
  return range;
}

std::string_view block(double value, const ValueSpan& range) {
  if (std::isnan(value)) return " ";
  // Halves, so that the distance of two huge numbers stays finite.
  const double height = range.high / 2 - range.low / 2;
  const double share = height > 0 ? (value / 2 - range.low / 2) / height : 0.45;
  const double step = std::clamp(share, 0.0, 1.0) * static_cast<double>(kBlocks.size());
  return kBlocks[std::min(static_cast<size_t>(step), kBlocks.size() - 1)];
}

}  // namespace

std::string sparkline(std::span<const double> values, int width, std::optional<ValueSpan> range) {
  require(width >= 0, "a sparkline's width is >= 0");
  const std::vector<double> shown = means(values, std::min(values.size(), size_t(width)));
  const ValueSpan scale = range ? *range : range_of(shown);
  std::string out;
  for (const double v : shown) out += block(v, scale);
  return out;
}

}  // namespace rwkv
