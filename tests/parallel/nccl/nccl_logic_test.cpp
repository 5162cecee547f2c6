// The NCCL communicator without a GPU: on fake streams, over ranks that are threads. What NCCL does
// itself is another program's matter (nccl_conformance_main.cpp).
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "parallel/nccl_library.h"
#include "tests/parallel/conformance.h"
#include "tests/parallel/nccl/fake_cuda.h"
#include "tests/parallel/nccl/fake_nccl.h"
#include "tests/parallel/through_device.h"

extern "C" rwkv::Communicator* rwkv_nccl_make(rwkv::Communicator&, const rwkv::NcclSettings&);

namespace rwkv {
namespace {

using conformance::Check;
using fake::device_memory;
using fake::Mood;

std::unique_ptr<Communicator> make(Communicator& control, NcclSettings settings = {}) {
  return std::unique_ptr<Communicator>(rwkv_nccl_make(control, settings));
}

class NcclConformance : public testing::TestWithParam<std::tuple<int, Check>> {};

TEST_P(NcclConformance, Holds) {
  const auto& [ranks, check] = GetParam();
  run_local(ranks, [run = check.run](Communicator& control) {
    conformance::ThroughDevice comm(make(control), device_memory());
    EXPECT_EQ(comm.name(), "nccl");
    run(comm);
  });
}

INSTANTIATE_TEST_SUITE_P(Nccl, NcclConformance,
                         testing::Combine(testing::Values(1, 2, 3),
                                          testing::ValuesIn(conformance::all_checks())),
                         [](const auto& p) {
                           return std::string(std::get<1>(p.param).name) + "On" +
                                  std::to_string(std::get<0>(p.param));
                         });

// One rank, and a tensor of 16 zeros on the device.
class NcclLogic : public testing::Test {
 protected:
  void SetUp() override { fake::take_nccl_ends(); }
  void TearDown() override { fake::set_nccl_mood(Mood::kWell); }

  Tensor tensor() const { return {buffer_.data(), DType::kF32, {16}}; }
  std::unique_ptr<Ticket> begin(Communicator& comm) {
    return comm.all_reduce(tensor(), Reduce::kSum, stream_);
  }
  static std::string message_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const CommError& error) {
      return error.what();
    }
    return "nothing was thrown";
  }
  static ExitCode code_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.exit_code();
    }
    return ExitCode::kDone;
  }

  std::unique_ptr<Communicator> self_ = make_self();
  Buffer buffer_{64, device_memory()};
  Stream stream_;
};

// Kernels before and after an operation, and no wait of the host until the end.
TEST_F(NcclLogic, FollowsTheStreamAndIsFollowed) {
  run_local(2, [](Communicator& control) {
    const auto comm = make(control);
    Buffer buffer(400, device_memory()), result(400, device_memory());
    const auto fill = [](const Buffer& b, float value) {
      return [p = reinterpret_cast<float*>(b.data()), value] { std::fill(p, p + 100, value); };
    };
    const Tensor t{buffer.data(), DType::kF32, {100}};
    Stream stream;
    for (int i = 0; i < 20; ++i) {
      fake::launch(nullptr, [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
      fake::launch(nullptr, fill(buffer, static_cast<float>(i + control.rank())));
      comm->all_reduce(t, Reduce::kSum, stream)->wait();
      fake::launch(nullptr, [&] { std::memcpy(result.data(), buffer.data(), 400); });
      fake::launch(nullptr, fill(buffer, -1));
      std::vector<float> got(100);
      device_memory().copy(stream, reinterpret_cast<std::byte*>(got.data()), result.data(), 400);
      EXPECT_EQ(got, std::vector<float>(100, static_cast<float>(2 * i + 1)));
    }
    comm->settle();
  });
}

TEST_F(NcclLogic, WaitDoesNotBlockTheHost) {
  const auto comm = make(*self_);
  std::atomic<bool> go{false};
  fake::launch(nullptr, [&] {
    while (!go) std::this_thread::yield();
  });
  const auto ticket = begin(*comm);
  ticket->wait();
  EXPECT_FALSE(ticket->done());
  go = true;
  while (!ticket->done()) std::this_thread::yield();
  comm->settle();
}

TEST_F(NcclLogic, ClosesInOrder) {
  {
    const auto comm = make(*self_);
    begin(*comm).reset();
  }
  EXPECT_EQ(fake::take_nccl_ends(), (std::vector<std::string>{"finalized", "destroyed"}));
}

TEST_F(NcclLogic, AbortsWhenUnwinding) {
  EXPECT_THROW(
      {
        const auto comm = make(*self_);
        fake::set_nccl_mood(Mood::kNeverEnds);
        const auto ticket = begin(*comm);
        throw std::runtime_error("cause");
      },
      std::runtime_error);
  EXPECT_EQ(fake::take_nccl_ends(), std::vector<std::string>{"aborted"});
}

TEST_F(NcclLogic, NamesAPeerThatDoesNotConnect) {
  const auto comm = make(*self_, {.timeout_seconds = 1});
  fake::set_nccl_mood(Mood::kNeverStarts);
  const auto ticket = begin(*comm);
  EXPECT_FALSE(ticket->done());
  const std::string want =
      "nccl, rank 0 of 1: ncclAllReduce: not over after 1 s (parallel.timeout)";
  EXPECT_EQ(message_of([&] { ticket->wait(); }), want);
  EXPECT_TRUE(ticket->done());
  EXPECT_EQ(message_of([&] { begin(*comm); }), want) << "nothing works afterwards";
  EXPECT_EQ(code_of([&] { begin(*comm); }), ExitCode::kHang);
  EXPECT_EQ(message_of([&] { comm->settle(); }), want);
}

TEST_F(NcclLogic, SettleNoticesWhatDoesNotEnd) {
  {
    const auto comm = make(*self_, {.timeout_seconds = 1});
    fake::set_nccl_mood(Mood::kNeverEnds);
    begin(*comm)->wait();
    EXPECT_EQ(message_of([&] { comm->settle(); }),
              "nccl, rank 0 of 1: operations under way: not over after 1 s (parallel.timeout)");
    EXPECT_EQ(code_of([&] { comm->settle(); }), ExitCode::kHang);
  }
  EXPECT_EQ(fake::take_nccl_ends(), std::vector<std::string>{"aborted"});
}

TEST_F(NcclLogic, PassesErrorsOfNcclOn) {
  const auto comm = make(*self_);
  fake::set_nccl_mood(Mood::kFails);
  const auto ticket = begin(*comm);
  while (!ticket->done()) std::this_thread::yield();
  EXPECT_EQ(message_of([&] { ticket->wait(); }),
            "nccl, rank 0 of 1: ncclAllReduce: remote process exited");
  EXPECT_EQ(code_of([&] { ticket->wait(); }), ExitCode::kFatal);
}

TEST_F(NcclLogic, FailsToBeginOnAllRanks) {
  std::atomic<int> refused{0};
  run_local(3, [&](Communicator& control) {
    try {
      make(control, {.device = control.rank() == 1 ? 7 : 0});
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "nccl, rank 1 of 3: cudaSetDevice: fake error");
      ++refused;
    }
    control.barrier();
  });
  EXPECT_EQ(refused, 3);
}

TEST_F(NcclLogic, ReusesItsEvents) {
  const auto comm = make(*self_);
  for (int i = 0; i < 3; ++i) {
    const auto a = begin(*comm), b = begin(*comm);
    b->wait();
    a->wait();
    a->wait();
  }
  EXPECT_EQ(comm->operations(), 6U);
  EXPECT_EQ(&comm->host(), self_.get());
  EXPECT_EQ(comm->sum(2.5), 2.5);
}

}  // namespace
}  // namespace rwkv
