// Tensors that the host cannot touch, over ranks that are threads.
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "parallel/communicator.h"
#include "tests/parallel/conformance.h"
#include "tests/parallel/through_device.h"
#include "tests/support/walled_memory.h"

namespace rwkv {
namespace {

using conformance::all_checks;
using conformance::Check;
using conformance::ThroughDevice;

class StagedConformance : public testing::TestWithParam<std::tuple<int, Check>> {};

TEST_P(StagedConformance, Holds) {
  const auto& [ranks, check] = GetParam();
  run_local(ranks, [n = ranks, run = check.run](Communicator& control) {
    ThroughDevice comm(make_staged(control, walled_memory()), walled_memory());
    EXPECT_EQ(comm.name(), "staged");
    EXPECT_EQ(comm.size(), n);
    run(comm);
  });
}

class WalledSelfConformance : public testing::TestWithParam<Check> {};

TEST_P(WalledSelfConformance, Holds) {
  ThroughDevice comm(make_self(walled_memory()), walled_memory());
  GetParam().run(comm);
}

INSTANTIATE_TEST_SUITE_P(Staged, StagedConformance,
                         testing::Combine(testing::Values(1, 2, 3, 5),
                                          testing::ValuesIn(all_checks())),
                         [](const auto& p) {
                           return std::string(std::get<1>(p.param).name) + "On" +
                                  std::to_string(std::get<0>(p.param));
                         });
INSTANTIATE_TEST_SUITE_P(WalledSelf, WalledSelfConformance, testing::ValuesIn(all_checks()),
                         [](const auto& p) { return std::string(p.param.name); });

// Numbers of the host go beside the device's.
TEST(Staged, KeepsNumbersOfTheHostOnTheHost) {
  run_local(3, [](Communicator& control) {
    const auto comm = make_staged(control, walled_memory());
    EXPECT_EQ(&comm->host(), &control);
    EXPECT_EQ(comm->sum(comm->rank()), 3.0);
    EXPECT_EQ(comm->min(comm->rank()), 0);
    EXPECT_EQ(comm->broadcast(comm->rank() == 1 ? "text" : "", 1), "text");
  });
}

TEST(Staged, CopiesWhatItMustAndNoMore) {
  Buffer tensor(1000, walled_memory());
  const Tensor t{tensor.data(), DType::kF32, {250}};
  run_local(1, [&](Communicator& control) {
    const auto comm = make_staged(control, walled_memory());
    Stream stream;
    const int64_t before = walled_counts().copies;
    comm->broadcast(t, 0, stream)->wait();
    EXPECT_EQ(walled_counts().copies, before + 1) << "a root sends, and nothing comes back";
    const auto ticket = comm->all_reduce(t, Reduce::kSum, stream);
    ticket->wait();
    ticket->wait();
    EXPECT_EQ(walled_counts().copies, before + 3) << "there and back, once";
  });
}

// Ranks that part in disorder, with operations of both kinds under way.
TEST(Staged, FreesPeersOfARankThatThrows) {
  EXPECT_THROW(run_local(3,
                         [](Communicator& control) {
                           const auto comm = make_staged(control, walled_memory());
                           Buffer tensor(64, walled_memory());
                           const Tensor t{tensor.data(), DType::kF32, {16}};
                           Stream stream;
                           const auto ticket = comm->all_reduce(t, Reduce::kSum, stream);
                           if (comm->rank() == 1) throw std::runtime_error("rank 1 broke");
                           for (;;) comm->broadcast(t, 0, stream)->wait();
                         }),
               std::runtime_error);
}

}  // namespace
}  // namespace rwkv
