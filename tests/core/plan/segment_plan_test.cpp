// Segments: who holds what.
#include "core/plan/segment_plan.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace rwkv {
namespace {

// Every token is counted once, in order; neighbours agree on where the state is handed over.
void expect_sound(const SegmentPlan& plan) {
  int64_t next = 0, handed = 0;
  for (int64_t i = 0; i < plan.segments(); ++i) {
    const Segment s = plan.segment(i);
    EXPECT_EQ(s.begin, next);
    EXPECT_GT(s.end, s.begin);
    EXPECT_EQ(s.run_begin, handed);  // its state is the one that the left neighbour hands on
    EXPECT_EQ(s.run_begin, s.first ? 0 : s.begin - plan.overlap);
    EXPECT_GE(s.run_begin, 0);
    EXPECT_GE(s.handed, s.run_begin);
    EXPECT_LE(s.tokens(), plan.most_tokens());
    EXPECT_EQ(s.owner + s.group * plan.ranks, s.index);
    EXPECT_EQ(s.first, i == 0);
    EXPECT_EQ(s.last, i + 1 == plan.segments());
    EXPECT_EQ(plan.at(s.group, s.owner), s);
    next = s.end;
    handed = s.handed;
  }
  EXPECT_EQ(next, plan.tokens);
  int64_t held = 0;
  for (int64_t group = 0; group < plan.groups(); ++group) {
    for (int rank = 0; rank < plan.ranks; ++rank) held += plan.at(group, rank) ? 1 : 0;
    EXPECT_EQ(plan.segments_of(group) < plan.ranks, !plan.at(group, plan.ranks - 1).has_value());
  }
  EXPECT_EQ(held, plan.segments());
}

TEST(SegmentPlan, IsSoundForEveryLengthRanksChunkAndOverlap) {
  for (int64_t tokens = 1; tokens <= 24; ++tokens) {
    for (int ranks = 1; ranks <= 6; ++ranks) {
      for (int64_t chunk = 0; chunk <= 10; ++chunk) {
        const SegmentPlan plain = plan_segments(tokens, ranks, chunk, 0, 0);
        for (int64_t overlap = 0; overlap <= plain.chunk; ++overlap) {
          SCOPED_TRACE(testing::Message()
                       << tokens << " " << ranks << " " << chunk << " " << overlap);
          expect_sound(plan_segments(tokens, ranks, chunk, overlap, 0));
        }
      }
    }
  }
}

TEST(SegmentPlan, WithoutAChunkTheRanksShareTheSequence) {
  EXPECT_EQ(plan_segments(10, 3, 0, 0, 0).chunk, 4);
  EXPECT_EQ(plan_segments(2, 4, 0, 0, 0).segments(), 2);
  EXPECT_EQ(plan_segments(1000, 1, 0, 0, 512).segments(), 1);
  EXPECT_EQ(plan_segments(1100, 2, 0, 0, 512).chunk, 1024);  // whole leaves
  EXPECT_EQ(plan_segments(1100, 2, 0, 0, 512).segments(), 2);
}

TEST(SegmentPlan, KnowsTheRankWithTheLongestSegment) {
  EXPECT_EQ((SegmentPlan{100, 4, 25, 0}).fullest_rank(), 0);
  EXPECT_EQ((SegmentPlan{100, 4, 25, 5}).fullest_rank(), 1);  // the first has no overlap
  EXPECT_EQ((SegmentPlan{100, 2, 25, 5}).fullest_rank(), 1);
  EXPECT_EQ((SegmentPlan{100, 2, 60, 30}).fullest_rank(), 1);  // 60, and 40 + 30
  EXPECT_EQ((SegmentPlan{100, 2, 60, 10}).fullest_rank(), 0);  // 60, and 40 + 10
  EXPECT_EQ((SegmentPlan{100, 1, 25, 5}).fullest_rank(), 0);
}

TEST(SegmentPlan, RefusesNamingTheNeighbours) {
  try {
    plan_segments(4096, 2, 700, 0, 512);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("512 or 1024"), std::string::npos) << error.what();
  }
  EXPECT_THROW(plan_segments(100, 2, 10, 11, 0), InputError);
  EXPECT_NO_THROW(plan_segments(100, 2, 10, 10, 0));
  EXPECT_NO_THROW(plan_segments(100, 1, 0, 1000, 0));  // one segment has no neighbour
}

}  // namespace
}  // namespace rwkv
