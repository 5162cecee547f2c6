// Sums whose bits do not depend on the order of their terms: integers in place of floating point.
//
// A term p becomes the integer round(p * scale), scale a power of two, and integers are added
// modulo 2^64. The scale is chosen from the largest term of an earlier pass, so that the largest
// term has kPeakBits bits; up to 2^kTermBits a term is converted exactly as rounding says. A larger
// one gives a wrong integer, not undefined behaviour: who sums keeps the largest |p| and looks at
// it before the sum is used.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

namespace rwkv {

inline constexpr int kTermBits = 51;  // |p * scale| <= 2^51: the trick below rounds correctly
inline constexpr int kPeakBits = 44;  // of the largest term: room to grow 128-fold in a step

// round(p * scale), ties to even, as two's complement. The sum with 1.5 * 2^52 has a unit of 1 in
// its last place, so the addition rounds; every instruction set does it the same way.
[[gnu::always_inline]] inline uint64_t to_fixed(double p, double scale) {
  constexpr double kMagic = 6755399441055744.0;
  return std::bit_cast<uint64_t>(p * scale + kMagic) - std::bit_cast<uint64_t>(kMagic);
}

// |p| as an integer that orders like |p|; infinities and NaN are above all numbers.
[[gnu::always_inline]] inline int64_t magnitude_bits(double p) {
  return static_cast<int64_t>(std::bit_cast<uint64_t>(p) & 0x7fffffffffffffffu);
}

inline double magnitude_from_bits(int64_t bits) {
  return std::bit_cast<double>(static_cast<uint64_t>(bits));
}

// The most bits that `terms` terms may have each, so that their sum fits 63 bits.
inline int term_bits(int64_t terms) {
  const auto spare =
      static_cast<int>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(1, terms))));
  return std::min(kTermBits, 62 - spare);
}

// Whether the sum of `terms` terms of at most |peak| is right under this scale. 0: no scale yet.
inline bool fits(double peak, double scale, int64_t terms) {
  return peak == 0 || (scale > 0 && peak * scale <= std::ldexp(1.0, term_bits(terms)));
}

// The scale for terms of at most |peak|, finite; 0 when all are zero.
inline double scale_for(double peak, int64_t terms) {
  if (peak == 0) return 0;
  const int bits = std::min(kPeakBits, term_bits(terms) - (kTermBits - kPeakBits));
  return std::ldexp(1.0, std::min(bits - 1 - std::ilogb(peak), 900));
}

// A sum of a few doubles (losses, weights) without a scale: whole part and 2^-40ths are summed
// apart, in integers. Right while the whole parts stay below 2^63 and the terms below 2^23 in
// number. Terms that are not finite are counted instead.
class OrderFreeSum {
 public:
  static constexpr size_t kParts = 3;

  void add(double x) {
    if (!std::isfinite(x) || std::fabs(x) >= 0x1p62) {
      ++parts_[2];
      return;
    }
    const double whole = std::floor(x);
    parts_[0] += static_cast<int64_t>(whole);
    parts_[1] += static_cast<int64_t>(std::nearbyint((x - whole) * kUnits));
  }
  // NaN when a term was not finite.
  double value() const {
    if (parts_[2] != 0) return std::nan("");
    return static_cast<double>(parts_[0]) + static_cast<double>(parts_[1]) / kUnits;
  }
  // What ranks add up.
  std::span<int64_t, kParts> parts() { return parts_; }
  void clear() { std::ranges::fill(parts_, 0); }

 private:
  static constexpr double kUnits = 1099511627776.0;  // 2^40
  int64_t parts_[kParts] = {0, 0, 0};
};

}  // namespace rwkv
