#include "core/data/samplers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <vector>

#include "tests/core/data/data_test_support.h"

namespace rwkv::testing {
namespace {

// The first `count` samples of a sampler made for this batch.
std::vector<int64_t> visited(const Sampler& sampler, int64_t batch, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(sampler.sample(i / batch, i % batch));
  return out;
}

TEST(SequentialSampler, CountsThroughAndStartsAgain) {
  EXPECT_EQ(visited(*make_sequential_sampler(3, 5), 3, 12),
            (std::vector<int64_t>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1}));
}

TEST(ShuffleSampler, VisitsEachSampleOnceAnEpoch) {
  for (const int64_t size : {1, 2, 3, 4, 5, 16, 17, 100, 255, 256, 257, 1000, 65537}) {
    const auto sampler = make_shuffle_sampler(7, size, 42);
    const auto all = visited(*sampler, 7, 3 * size);
    for (int epoch = 0; epoch < 3; ++epoch) {
      std::vector<int64_t> order(all.begin() + epoch * size, all.begin() + (epoch + 1) * size);
      std::ranges::sort(order);
      for (int64_t i = 0; i < size; ++i) {
        ASSERT_EQ(order[static_cast<size_t>(i)], i) << "size " << size << " epoch " << epoch;
      }
    }
  }
}

TEST(ShuffleSampler, OrderChangesWithEpochAndSeedButNotWithBatch) {
  const int64_t size = 1000;
  const auto order = visited(*make_shuffle_sampler(8, size, 1), 8, 2 * size);
  const std::vector<int64_t> first(order.begin(), order.begin() + size);
  const std::vector<int64_t> second(order.begin() + size, order.end());
  EXPECT_NE(first, second);
  EXPECT_NE(first, visited(*make_shuffle_sampler(8, size, 2), 8, size));
  EXPECT_EQ(order, visited(*make_shuffle_sampler(5, size, 1), 5, 2 * size));
}

// A random permutation has one fixed point on average, and neighbours are rarely neighbours again.
TEST(ShuffleSampler, LooksRandom) {
  const int64_t size = 5000;
  const auto order = visited(*make_shuffle_sampler(1, size, 3), 1, 40 * size);
  int64_t fixed = 0, neighbours = 0, lower_half = 0;
  for (int64_t i = 0; i < 40 * size; ++i) {
    const int64_t value = order[static_cast<size_t>(i)];
    fixed += value == i % size;
    if (i % size != 0) neighbours += value == order[static_cast<size_t>(i - 1)] + 1;
    if (i % size < size / 2) lower_half += value < size / 2;
  }
  // Poisson: a standard deviation of 6.3.
  EXPECT_NEAR(static_cast<double>(fixed), 40, 19);
  EXPECT_NEAR(static_cast<double>(neighbours), 40, 19);
  // Hypergeometric: the standard deviation of the sum is about sqrt(40 * size / 16) = 112.
  EXPECT_NEAR(static_cast<double>(lower_half), 40 * size / 4.0, 600);
}

TEST(ShuffleSampler, HandlesHugeSizesAndEndlessSources) {
  const int64_t huge = (int64_t{1} << 62) + 12345;
  std::set<int64_t> seen;
  for (const int64_t value : visited(*make_shuffle_sampler(4, huge, 9), 4, 1000)) {
    EXPECT_GE(value, 0);
    EXPECT_LT(value, huge);
    seen.insert(value);
  }
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_EQ(visited(*make_shuffle_sampler(4, std::numeric_limits<int64_t>::max(), 9), 4, 9),
            (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST(RwkvLmSampler, FindsThePublishedPrimes) {
  constexpr int64_t kMiniPile = 1498226207;
  EXPECT_EQ(largest_cubing_prime(kMiniPile / 512 - 1), 2926181);
  EXPECT_EQ(largest_cubing_prime(kMiniPile / 4096 - 1), 365759);
  EXPECT_EQ(largest_cubing_prime(332115325534 / 4096 - 1), 81082817);
  EXPECT_EQ(largest_cubing_prime(4), 2);
  EXPECT_EQ(largest_cubing_prime(5), 5);
  EXPECT_EQ(largest_cubing_prime(1), 0);
}

TEST(RwkvLmSampler, GoldenSectionIsExact) {
  EXPECT_EQ(golden_section(2926181), 1808479);
  EXPECT_EQ(golden_section(0), 0);
  EXPECT_EQ(golden_section(1), 0);
  EXPECT_EQ(golden_section(2), 1);
  // Of two neighbouring Fibonacci numbers F(n-1), F(n): F(n) * (sqrt(5)-1)/2 = F(n-1) -+ a tiny
  // amount, below for even n. No floating point type of 64 bits tells the two apart at n = 80.
  int64_t before = 1, number = 1;
  for (int n = 3; n <= 88; ++n) {
    const int64_t next = before + number;
    before = number;
    number = next;
    EXPECT_EQ(golden_section(number), n % 2 == 0 ? before - 1 : before) << "n = " << n;
  }
}

TEST(RwkvLmSampler, FirstSlotsAreThePublishedOnes) {
  const auto sampler = make_rwkv_lm_sampler(16, 1498226207, 512);
  EXPECT_EQ(visited(*sampler, 16, 3), (std::vector<int64_t>{1808479, 2763108, 2010037}));
}

TEST(RwkvLmSampler, OrderIsOneRunningCountWhateverTheBatch) {
  const auto reference = visited(*make_rwkv_lm_sampler(1, 1498226207, 4096), 1, 50000);
  EXPECT_EQ(reference, visited(*make_rwkv_lm_sampler(24, 1498226207, 4096), 24, 50000));
  // Epoch 1 of 40,320 samples, written as the trainer it comes from counts: 3 ranks of 8.
  const auto sampler = make_rwkv_lm_sampler(24, 1498226207, 4096);
  const int64_t epoch = 1, index = 17, world = 3, rank = 2;
  const int64_t count = 1 + epoch * 40320 + index * world + rank;
  EXPECT_EQ(sampler->sample((count - 1) / 24, (count - 1) % 24),
            reference[static_cast<size_t>(count - 1)]);
}

TEST(RwkvLmSampler, IsABijectionOverItsPrime) {
  // 1,000 whole contexts allow p = 983 (997 and 991 leave 1).
  const auto order = visited(*make_rwkv_lm_sampler(10, 64000, 64), 10, 983);
  EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 983u);
  EXPECT_EQ(*std::ranges::max_element(order), 982);
}

TEST(RwkvLmSampler, ProductsDoNotOverflow) {
  const int64_t prime = largest_cubing_prime((int64_t{1} << 40) - 1);
  const auto sampler = make_rwkv_lm_sampler(1, int64_t{1} << 40, 1);
  const int64_t count = 987654321987;
  // The same product by adding and doubling, which needs no wide type.
  const auto times = [&](int64_t a, int64_t b) {
    int64_t sum = 0;
    for (; b > 0; b >>= 1, a = a * 2 % prime) {
      if (b & 1) sum = (sum + a) % prime;
    }
    return sum;
  };
  EXPECT_EQ(prime % 3, 2);
  EXPECT_EQ(sampler->sample(count - 1, 0),
            times(golden_section(prime), times(count, times(count, count))));
}

TEST(RwkvLmSampler, SmallDataIsRefusedNamingWhatIsNeeded) {
  expect_words(input_error([] { make_rwkv_lm_sampler(1, 1535, 512); }),
               {"rwkv_lm", "1536", "1535", "512"});
  EXPECT_EQ(make_rwkv_lm_sampler(1, 1536, 512)->sample(0, 0), 1);
}

}  // namespace
}  // namespace rwkv::testing
