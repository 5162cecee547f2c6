#include "core/base/fixed_point.h"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace rwkv {
namespace {

int64_t fixed(double p, double scale) { return static_cast<int64_t>(to_fixed(p, scale)); }

TEST(FixedPoint, RoundsToNearestTiesToEven) {
  EXPECT_EQ(fixed(0.0, 1), 0);
  EXPECT_EQ(fixed(-0.0, 1), 0);
  EXPECT_EQ(fixed(2.5, 1), 2);
  EXPECT_EQ(fixed(3.5, 1), 4);
  EXPECT_EQ(fixed(-2.5, 1), -2);
  EXPECT_EQ(fixed(-2.51, 1), -3);
  EXPECT_EQ(fixed(0.3, 1024), 307);
  for (double limit : {0x1p51, -0x1p51, 0x1p51 - 1, 1 - 0x1p51}) EXPECT_EQ(fixed(limit, 1), limit);
  EXPECT_NE(fixed(0x1p53, 1), 0x1p53);  // beyond the limit the integer is another one
}

TEST(FixedPoint, SumsDoNotDependOnTheOrder) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  std::vector<double> terms(1000);
  for (double& term : terms) term = std::exp(5 * normal(random)) * normal(random);
  double peak = 0;
  for (double term : terms) peak = std::max(peak, std::fabs(term));
  const double scale = scale_for(peak, 1000);
  ASSERT_TRUE(fits(peak, scale, 1000));
  const auto sum = [&] {
    uint64_t total = 0;
    for (double term : terms) total += to_fixed(term, scale);
    return total;
  };
  const uint64_t want = sum();
  const double exact = std::accumulate(terms.begin(), terms.end(), 0.0);
  EXPECT_NEAR(static_cast<double>(static_cast<int64_t>(want)) / scale, exact, 1e-10 * peak);
  for (int i = 0; i < 10; ++i) {
    std::shuffle(terms.begin(), terms.end(), random);
    EXPECT_EQ(sum(), want);
  }
}

TEST(FixedPoint, AScaleHasRoomToGrowAndNoMore) {
  for (double peak : {1e-38, 3.7e-5, 1.0, 2.0, 1.999, 6e30}) {
    for (int64_t terms : {int64_t{1}, int64_t{1000}, int64_t{1} << 24, int64_t{1} << 40}) {
      const double scale = scale_for(peak, terms);
      int power = 0;
      EXPECT_EQ(std::frexp(scale, &power), 0.5) << "a power of two";
      EXPECT_TRUE(fits(100 * peak, scale, terms)) << peak << " " << terms;
      EXPECT_FALSE(fits(300 * peak, scale, terms)) << peak << " " << terms;
      // The sum of as many terms as large as they may be stays below 2^63.
      EXPECT_LE(std::ldexp(static_cast<double>(terms), term_bits(terms)), 0x1p62);
    }
  }
  EXPECT_EQ(scale_for(0, 5), 0);
  EXPECT_TRUE(fits(0, 0, 5));
  EXPECT_FALSE(fits(1e-30, 0, 5));
}

TEST(FixedPoint, MagnitudesOrderLikeTheirNumbers) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> rising = {0, 1e-310, -1e-300, 0.5, -0.75, 3e7, -infinity, std::nan("")};
  for (size_t i = 1; i < rising.size(); ++i) {
    EXPECT_GT(magnitude_bits(rising[i]), magnitude_bits(rising[i - 1])) << rising[i];
  }
  EXPECT_EQ(magnitude_from_bits(magnitude_bits(-0.75)), 0.75);
}

TEST(OrderFreeSum, AddsAnyOrderToTheSameBits) {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> uniform(-3, 500);
  std::vector<double> terms(5000);
  for (double& term : terms) term = uniform(random);
  double want = 0;
  for (int i = 0; i < 5; ++i) {
    OrderFreeSum sum;
    for (double term : terms) sum.add(term);
    if (i == 0) want = sum.value();
    EXPECT_EQ(sum.value(), want);
    std::shuffle(terms.begin(), terms.end(), random);
  }
  EXPECT_NEAR(want, std::accumulate(terms.begin(), terms.end(), 0.0), 1e-7);
  OrderFreeSum none;
  none.add(1);
  none.add(std::nan(""));
  EXPECT_TRUE(std::isnan(none.value()));
}

}  // namespace
}  // namespace rwkv
