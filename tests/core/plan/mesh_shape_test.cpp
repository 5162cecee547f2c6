// Which ranks work on what.
#include "core/plan/mesh_shape.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/plan/step_plan.h"

namespace rwkv {
namespace {

Recipe recipe(int64_t batch, int64_t data = 0, int64_t context = 64, int64_t micro_batch = 0) {
  Recipe out;
  out.train.batch = batch;
  out.train.context = context;
  out.train.micro_batch = micro_batch;
  out.parallel.data = data;
  return out;
}

TEST(PlanMesh, GivesDataRanksWhatRanksAndBatchAllow) {
  struct Row {
    int64_t batch, given;
    int ranks, data, parked;
  };
  for (const Row& row : {Row{5, 0, 1, 1, 0}, Row{5, 0, 3, 3, 0}, Row{5, 0, 5, 5, 0},
                         Row{5, 0, 8, 5, 3}, Row{1, 0, 4, 1, 3}, Row{64, 0, 7, 7, 0},
                         Row{5, 2, 2, 2, 0}, Row{5, 2, 5, 2, 3}, Row{5, 1, 4, 1, 3}}) {
    const MeshShape mesh = plan_mesh(recipe(row.batch, row.given), row.ranks, 0);
    EXPECT_EQ(mesh.data, row.data) << row.batch << " " << row.ranks;
    EXPECT_EQ(mesh.sequence, 1);
    EXPECT_EQ(mesh.parked, row.parked) << row.batch << " " << row.ranks;
    EXPECT_EQ(mesh.active() + mesh.parked, row.ranks);
  }
}

TEST(PlanMesh, RefusesWhatTheJobCannotGive) {
  EXPECT_THROW(plan_mesh(recipe(16, 9), 2, 0), InputError);
  EXPECT_THROW(plan_mesh(recipe(5, 6), 8, 0), InputError);
  EXPECT_NO_THROW(plan_mesh(recipe(16, 9), 9, 0));
}

// Of ranks that a sequence could have, no more than all have a segment of whole leaves.
TEST(PlanMesh, GivesSequenceRanksASegmentEach) {
  struct Row {
    int64_t context;
    int ranks;
    int64_t leaf;
    int sequence;
  };
  for (const Row& row :
       {Row{2048, 4, 512, 4}, Row{2048, 9, 512, 4}, Row{1537, 3, 512, 2}, Row{1537, 3, 0, 3},
        Row{3590, 7, 512, 4}, Row{3590, 7, 0, 7}, Row{500, 3, 512, 1}, Row{1024, 1, 512, 1}}) {
    Recipe one = recipe(1, 0, row.context);
    one.parallel.leaf = 512;
    const MeshShape mesh = plan_mesh(one, row.ranks, row.leaf);
    EXPECT_EQ(mesh.sequence, row.sequence) << row.context << " " << row.ranks << " " << row.leaf;
    EXPECT_EQ(mesh.parked, row.ranks - row.sequence);
  }
}

TEST(PlanMesh, RefusesMoreRanksThanAnIntCounts) {
  Recipe many = recipe(65536, 65536);
  many.parallel.sequence = 65536;
  EXPECT_THROW(plan_mesh(many, 1, 0), InputError);
}

TEST(ShareOf, IsFloorOfTheBatchTimesGroup) {
  const auto shares = [](int64_t batch, int groups) {
    std::vector<int64_t> counts;
    for (int g = 0; g < groups; ++g) counts.push_back(share_of(batch, groups, g).count());
    return counts;
  };
  EXPECT_EQ(shares(5, 1), (std::vector<int64_t>{5}));
  EXPECT_EQ(shares(5, 2), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(shares(5, 3), (std::vector<int64_t>{1, 2, 2}));
  EXPECT_EQ(shares(7, 4), (std::vector<int64_t>{1, 2, 2, 2}));
  EXPECT_EQ(shares(2, 5), (std::vector<int64_t>{0, 0, 1, 0, 1}));
}

TEST(ShareOf, SharesFollowOneAnother) {
  for (int64_t batch : {1, 5, 64, 1000}) {
    for (int groups : {1, 2, 3, 7, 64}) {
      int64_t next = 0;
      for (int g = 0; g < groups; ++g) {
        const Share share = share_of(batch, groups, g);
        EXPECT_EQ(share.begin, next);
        next = share.end;
      }
      EXPECT_EQ(next, batch);
    }
  }
}

TEST(PlanMicroBatch, FitsAboutEightThousandTokensEvenly) {
  EXPECT_EQ(plan_micro_batch(recipe(99, 0, 64), 5), 5);      // all fit
  EXPECT_EQ(plan_micro_batch(recipe(99, 0, 64), 128), 128);  // 8,192 tokens
  EXPECT_EQ(plan_micro_batch(recipe(999, 0, 64), 129), 65);  // two passes, evened out
  EXPECT_EQ(plan_micro_batch(recipe(99, 0, 4096), 5), 2);    // three passes of 2, 2, 1
  EXPECT_EQ(plan_micro_batch(recipe(99, 0, 100000), 3), 1);  // never fewer than one
  EXPECT_EQ(plan_micro_batch(recipe(99, 0, 64, 4), 9), 4);   // as given
  EXPECT_EQ(plan_micro_batch(recipe(99, 0, 64, 40), 9), 9);  // at most the share
}

TEST(PlanStep, CoversTheShareInOrderThenReducesAndUpdates) {
  for (int64_t share : {1, 2, 5, 6}) {
    for (int64_t micro : {1, 2, 3, 6}) {
      const std::vector<Action> plan = plan_step(share, micro, false);
      const auto passes = static_cast<size_t>((share + micro - 1) / micro);
      ASSERT_EQ(plan.size(), passes + 2);
      int64_t next = 0;
      for (size_t i = 0; i < passes; ++i) {
        EXPECT_EQ(plan[i].phase, Phase::kForwardBackward);
        EXPECT_EQ(plan[i].first, next);
        EXPECT_GE(plan[i].count, 1);
        EXPECT_LE(plan[i].count, micro);
        next += plan[i].count;
      }
      EXPECT_EQ(next, share);
      EXPECT_EQ(plan[passes].phase, Phase::kReduce);
      EXPECT_EQ(plan[passes + 1].phase, Phase::kUpdate);
    }
  }
}

}  // namespace
}  // namespace rwkv
