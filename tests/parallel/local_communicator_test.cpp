// What ranks as threads promise beyond the conformance checks: order of sums, failures,
// disagreement.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "parallel/communicator.h"

namespace rwkv {
namespace {

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

TEST(RunLocal, RunsTheWorkOnceOnEachRank) {
  std::atomic<int> mask{0};
  run_local(5, [&](Communicator& comm) { mask += 1 << (4 * comm.rank()); });
  EXPECT_EQ(mask, 0x11111);
}

TEST(RunLocal, RefusesFewerThanOneRank) {
  EXPECT_THROW(run_local(0, [](Communicator&) {}), Error);
}

TEST(RunLocal, NestsInARank) {
  run_local(2, [](Communicator& outer) {
    std::atomic<int> inner_sum{0};
    run_local(3, [&](Communicator& inner) { inner_sum += static_cast<int>(inner.sum(1)); });
    EXPECT_EQ(inner_sum, 9);
    EXPECT_EQ(outer.sum(1), 2);
  });
}

TEST(LocalAllReduce, AddsInTheOrderOfRanks) {
  run_local(4, [](Communicator& comm) {
    // From left to right the 1 is lost in 1e8 and the 3 is not; backwards, by pairs or from the
    // middle the sum is another.
    constexpr float kTerms[] = {1.0f, 1e8f, -1e8f, 3.0f};
    float value = kTerms[comm.rank()];
    Stream stream;
    comm.all_reduce(view_of(&value, {1}), Reduce::kSum, stream)->wait();
    EXPECT_EQ(value, 3.0f);
  });
}

TEST(LocalAllReduce, WrapsWholeNumbersAround) {
  run_local(2, [](Communicator& comm) {
    int64_t value = comm.rank() == 0 ? INT64_MAX : 1;
    Stream stream;
    comm.all_reduce(view_of(&value, {1}), Reduce::kSum, stream)->wait();
    EXPECT_EQ(value, INT64_MIN);
  });
}

using Call = void (*)(Communicator&);

// Rank 1 of 3 throws while its peers are in `call`.
void expect_peers_freed(Call call) {
  std::atomic<int> freed{0};
  try {
    run_local(3, [&](Communicator& comm) {
      if (comm.rank() == 1) throw Broken("rank 1 broke");
      try {
        call(comm);
      } catch (const CommError&) {
        ++freed;
        throw;
      }
    });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Broken& error) {
    EXPECT_STREQ(error.what(), "rank 1 broke");
  }
  EXPECT_EQ(freed, 2);
}

TEST(LocalFailure, FreesPeersInABarrier) {
  expect_peers_freed([](Communicator& comm) { comm.barrier(); });
}

TEST(LocalFailure, FreesPeersInAReduction) {
  expect_peers_freed([](Communicator& comm) { comm.sum(1); });
}

TEST(LocalFailure, FreesPeersInASplit) {
  expect_peers_freed([](Communicator& comm) { comm.split(0, 0); });
}

TEST(LocalFailure, FreesPeersInAShift) {
  expect_peers_freed([](Communicator& comm) {
    int32_t in = 0;
    Stream stream;
    comm.shift({}, kNoRank, view_of(&in, {1}), 1, stream)->wait();
  });
}

TEST(LocalFailure, FreesPeersThatPoll) {
  expect_peers_freed([](Communicator& comm) {
    int32_t value = 0;
    Stream stream;
    const auto ticket = comm.all_reduce(view_of(&value, {1}), Reduce::kSum, stream);
    while (!ticket->done()) std::this_thread::yield();
    ticket->wait();
  });
}

TEST(LocalFailure, FreesPeersOnCommunicatorsOfASplit) {
  EXPECT_THROW(run_local(4,
                         [](Communicator& comm) {
                           const auto half = comm.split(comm.rank() / 2, 0);
                           if (comm.rank() == 3) throw Broken("");
                           for (;;) half->barrier();
                         }),
               Broken);
}

TEST(LocalFailure, LetsTheLowestOfSeveralCausesOut) {
  try {
    run_local(4, [](Communicator& comm) {
      comm.barrier();
      if (comm.rank() >= 2) throw Broken(std::to_string(comm.rank()));
      comm.barrier();
    });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Broken& error) {
    EXPECT_STREQ(error.what(), "2");
  }
}

TEST(LocalFailure, LetsOutWhatIsNotAStandardException) {
  EXPECT_THROW(run_local(2,
                         [](Communicator& comm) {
                           if (comm.rank() == 0) throw 42;
                           comm.barrier();
                         }),
               int);
}

TEST(LocalFailure, LeavesBuffersOfARankThatThrowsAlone) {
  std::atomic<bool> gone{false};
  std::vector<float> kept(1000, 3.0f);
  const auto work = [&](Communicator& comm) {
    Stream stream;
    if (comm.rank() == 1) {
      std::vector<float> own(1000, 1.0f);
      try {
        const auto ticket = comm.all_reduce(view_of(own.data(), {1000}), Reduce::kSum, stream);
        throw Broken("");
      } catch (const Broken&) {
        own = {};
        gone = true;
        throw;
      }
    }
    while (!gone) std::this_thread::yield();
    comm.all_reduce(view_of(kept.data(), {1000}), Reduce::kSum, stream)->wait();
  };
  EXPECT_THROW(run_local(2, work), Broken);
  EXPECT_EQ(kept, std::vector<float>(1000, 3.0f));
}

TEST(LocalFailure, SaysThatARankEndedWithoutJoining) {
  try {
    run_local(3, [](Communicator& comm) {
      if (comm.rank() != 2) comm.barrier();
    });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const CommError& error) {
    EXPECT_NE(std::string(error.what()).find("rank 2"), std::string::npos) << error.what();
  }
}

// All ranks notice, and go on afterwards.
void expect_disagreement(Call call, const std::string& words) {
  std::atomic<int> noticed{0};
  run_local(3, [&](Communicator& comm) {
    try {
      call(comm);
    } catch (const CommError& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
      ++noticed;
    }
    EXPECT_EQ(comm.sum(1), 3);
  });
  EXPECT_EQ(noticed, 3);
}

TEST(LocalDisagreement, OfSizesIsAnErrorOnAllRanks) {
  expect_disagreement(
      [](Communicator& comm) {
        float values[3] = {};
        Stream stream;
        comm.all_reduce(view_of(values, {comm.rank() == 2 ? 3 : 2}), Reduce::kSum, stream)->wait();
      },
      "rank 2 calls all_reduce of 3 f32");
}

TEST(LocalDisagreement, OfShardsIsAnErrorOnAllRanks) {
  expect_disagreement(
      [](Communicator& comm) {
        float shard[2] = {}, whole[6] = {};
        const int64_t count = comm.rank() == 1 ? 2 : 1;
        Stream stream;
        comm.all_gather(view_of(shard, {count}), view_of(whole, {3 * count}), stream)->wait();
      },
      "rank 1 calls all_gather of 6 f32");
}

TEST(LocalDisagreement, OfRootsIsAnErrorOnAllRanks) {
  expect_disagreement(
      [](Communicator& comm) {
        float value = 0;
        Stream stream;
        comm.broadcast(view_of(&value, {1}), comm.rank() == 0 ? 0 : 1, stream)->wait();
      },
      "root 1");
}

TEST(LocalDisagreement, OfCallsIsAnErrorOnAllRanks) {
  expect_disagreement(
      [](Communicator& comm) {
        if (comm.rank() == 1) {
          comm.barrier();
        } else {
          comm.split(0, 0);
        }
      },
      "rank 1 calls barrier");
}

TEST(LocalDisagreement, OfASenderAndItsReceiverIsAnErrorOnBoth) {
  run_local(2, [](Communicator& comm) {
    Stream stream;
    std::vector<int64_t> values(3);
    const bool sends = comm.rank() == 0;
    const Tensor part = view_of(values.data(), {sends ? 3 : 2});
    const auto ticket =
        sends ? comm.shift(part, 1, {}, kNoRank, stream) : comm.shift({}, kNoRank, part, 0, stream);
    EXPECT_THROW(ticket->wait(), CommError);
    EXPECT_TRUE(ticket->done());
    comm.barrier();
  });
}

TEST(LocalAbortDeathTest, EndsTheProcessWhilePeersWait) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(run_local(3,
                        [](Communicator& comm) {
                          if (comm.rank() == 1) comm.abort(86);
                          comm.barrier();
                        }),
              testing::ExitedWithCode(86), "");
}

TEST(SelfAbortDeathTest, EndsTheProcess) {
  EXPECT_EXIT(make_self()->abort(87), testing::ExitedWithCode(87), "");
}

}  // namespace
}  // namespace rwkv
