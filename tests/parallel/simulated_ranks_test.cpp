// Clocks of ranks that are not there.
#include "parallel/simulated_ranks.h"

#include <gtest/gtest.h>

namespace rwkv {
namespace {

constexpr Link kLink{.latency = 0.5, .bytes_per_second = 100};

TEST(SimulatedRanks, AMessageTakesLatencyAndBytes) {
  SimulatedRanks ranks(2, kLink);
  ranks.compute(0, 3);
  EXPECT_DOUBLE_EQ(ranks.arrival(0, 200), 3 + 0.5 + 2);
  ranks.compute(1, 1);
  ranks.wait(1, ranks.arrival(0, 200));
  EXPECT_DOUBLE_EQ(ranks.clock(1), 5.5);
  ranks.wait(1, 4);  // long there
  EXPECT_DOUBLE_EQ(ranks.clock(1), 5.5);
  EXPECT_DOUBLE_EQ(ranks.latest(), 5.5);
  EXPECT_DOUBLE_EQ(ranks.most_computed(), 3);
}

TEST(SimulatedRanks, CollectivesGoAsRings) {
  SimulatedRanks ranks(4, kLink);
  EXPECT_DOUBLE_EQ(ranks.gathered(2, 100, 4), 2 + 3 * 1.5);
  ranks.compute(2, 1);
  ranks.all_reduce(400);
  for (int rank = 0; rank < 4; ++rank) EXPECT_DOUBLE_EQ(ranks.clock(rank), 1 + 6 * 1.5);
  SimulatedRanks alone(1, kLink);
  alone.all_reduce(400);
  EXPECT_DOUBLE_EQ(alone.clock(0), 0);
}

}  // namespace
}  // namespace rwkv
