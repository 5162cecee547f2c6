// Which rank takes which GPU, whatever a launcher shows to whom.
#include "core/train/seat.h"

#include <gtest/gtest.h>

#include "parallel/agree.h"
#include "tests/core/train/train_test_support.h"

namespace rwkv {
namespace {

using namespace test;
using Visible = std::vector<std::vector<std::string>>;

TEST(Seats, RanksThatSeeAllOfAHostTakeTheirOwn) {
  // mpirun, srun --gpus-per-node=2: the third has none left; a second host.
  const Visible visible{{"a", "b"}, {"a", "b"}, {"a", "b"}, {"c", "d"}, {"c", "d"}};
  EXPECT_EQ(share_out_devices(visible), (std::vector<int>{0, 1, kNoDevice, 0, 1}));
}

TEST(Seats, RanksThatAreShownOneEachTakeIt) {
  // srun --gpus-per-task=1
  EXPECT_EQ(share_out_devices({{"a"}, {"b"}, {"c"}}), (std::vector<int>{0, 0, 0}));
}

TEST(Seats, SetsThatOverlapAreSharedOutInTurn) {
  // srun --gpu-bind=closest, hosts of two sockets: neighbours see the same two
  EXPECT_EQ(share_out_devices({{"a", "b"}, {"a", "b"}, {"c", "d"}, {"c", "d"}}),
            (std::vector<int>{0, 1, 0, 1}));
  EXPECT_EQ(share_out_devices({{"a"}, {"a", "b"}}), (std::vector<int>{0, 1}));
}

TEST(Seats, WhoSeesNothingTakesNothing) {
  EXPECT_EQ(share_out_devices({{"a"}, {}}), (std::vector<int>{0, kNoDevice}));
  EXPECT_EQ(share_out_devices({{"", "a"}, {"", "a"}}), (std::vector<int>{1, kNoDevice}));
}

// Two GPUs that all of five ranks see: three are parked, and get what the others return or throw.
TEST(Seats, RanksWithoutADeviceWaitForTheOthers) {
  run_local(5, [](Communicator& world) {
    const std::vector<std::string> ids{"a", "b"};
    bool worked = false;
    const int64_t code = on_seats(world, ids, [&](Communicator& workers, const Seat& seat) {
      worked = true;
      EXPECT_EQ(workers.size(), 2);
      EXPECT_EQ(seat.place.size, 2);
      EXPECT_EQ(seat.device, workers.rank());
      return int64_t{7};
    });
    EXPECT_EQ(worked, world.rank() < 2);
    EXPECT_EQ(code, 7);
    const auto fail = [](Communicator& workers, const Seat&) -> int64_t {
      agree(workers, [] { throw InputError("no such file"); });
      return 0;
    };
    EXPECT_THROW(on_seats(world, ids, fail), AgreedError);
  });
}

TEST(Seats, AFirstRankThatFindsNoneEndsAll) {
  for (const int ranks : {1, 2}) {
    run_local(ranks, [](Communicator& world) {
      const std::vector<std::string> ids{world.rank() == 0 ? "" : "a"};
      EXPECT_THROW(on_seats(world, ids, [](Communicator&, const Seat&) { return int64_t{0}; }),
                   AgreedError);
    });
  }
}

TEST(Seats, RanksThatSeeOneDeviceEachAllWork) {
  run_local(3, [](Communicator& world) {
    const std::vector<std::string> own{std::string(1, static_cast<char>('a' + world.rank()))};
    const int64_t ranks = on_seats(world, own, [](Communicator& workers, const Seat& seat) {
      EXPECT_EQ(seat.device, 0);
      return static_cast<int64_t>(workers.size());
    });
    EXPECT_EQ(ranks, 3);
  });
}

TEST(Seats, OnCpusAllWorkAndErrorsAreShared) {
  run_local(3, [](Communicator& world) {
    const Recipe recipe = small_recipe({"parallel.device=cpu"});
    const int64_t sum = on_seats(world, recipe, [](Communicator& workers, const Seat& seat) {
      EXPECT_EQ(seat.place.size, 3);
      return static_cast<int64_t>(workers.sum(seat.place.rank));
    });
    EXPECT_EQ(sum, 3);
    const Recipe bad = small_recipe({"parallel.device=cuda"});  // in fp64
    EXPECT_THROW(on_seats(world, bad, [](Communicator&, const Seat&) { return int64_t{0}; }),
                 AgreedError);
  });
}

}  // namespace
}  // namespace rwkv
