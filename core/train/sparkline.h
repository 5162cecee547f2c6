// A series in one line of text.
#pragma once

#include <optional>
#include <span>
#include <string>

namespace rwkv {

struct ValueSpan {
  double low = 0, high = 1;
};

// At most `width` block characters (fewer for fewer values): each the mean of its stretch of the
// series, between the lowest and the highest of those means, or within `range`. A stretch with no
// finite value is a space; a series of equal values stands at half height.
std::string sparkline(std::span<const double> values, int width,
                      std::optional<ValueSpan> range = {});

}  // namespace rwkv
