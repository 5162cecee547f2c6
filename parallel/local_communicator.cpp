// Ranks that are threads of this process. abort() ends the process from here, since there is no way
// back to main from a noexcept function that does not return.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <system_error>
#include <thread>

#include "parallel/communicator.h"
#include "parallel/local_group.h"

namespace rwkv {

namespace local {
namespace {

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }
  std::string name() const override { return "local"; }

  void barrier() override {
    record_operation();
    LocalTicket(group_->job(), {join({.call = Call::kBarrier}), nullptr}).wait();
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    record_operation();
    const auto meeting = join({.call = Call::kSplit, .how = color, .key = key});
    LocalTicket(group_->job(), {meeting, nullptr}).wait();
    const Meeting::Seat& seat = meeting->seats[static_cast<size_t>(rank_)];
    if (seat.group == nullptr) return nullptr;
    return std::make_unique<LocalCommunicator>(seat.group, seat.rank);
  }

  [[noreturn]] void abort(int code) noexcept override {
    std::fflush(nullptr);
    std::_Exit(code);
  }

 private:
  std::unique_ptr<Ticket> do_all_reduce(Tensor inout, Reduce how, Stream&) override {
    return begin({.call = Call::kAllReduce, .out = inout, .how = static_cast<int>(how)});
  }
  std::unique_ptr<Ticket> do_all_gather(ConstTensor shard, Tensor whole, Stream&) override {
    return begin({.call = Call::kAllGather, .in = shard, .out = whole});
  }
  std::unique_ptr<Ticket> do_broadcast(Tensor inout, int root, Stream&) override {
    return begin({.call = Call::kBroadcast, .out = inout, .how = root});
  }
  std::unique_ptr<Ticket> do_shift(ConstTensor out, int to, Tensor in, int from, Stream&) override {
    return std::make_unique<LocalTicket>(group_->job(), group_->shift(rank_, out, to, in, from));
  }

  std::shared_ptr<Meeting> join(const Share& share) {
    return group_->join(rank_, joined_++, share);
  }
  std::unique_ptr<Ticket> begin(const Share& share) {
    return std::make_unique<LocalTicket>(group_->job(), LocalTicket::Parts{join(share), nullptr});
  }

  std::shared_ptr<Group> group_;
  int rank_;
  uint64_t joined_ = 0;  // collective calls so far; shifts meet pair by pair and do not count
};

// How one rank ended.
struct Outcome {
  std::exception_ptr error;
  bool peers_fault = false;
};

Outcome run_rank(Job& job, const std::shared_ptr<Group>& group, int rank,
                 const std::function<void(Communicator&)>& work) {
  Outcome outcome;
  try {
    LocalCommunicator comm(group, rank);
    work(comm);
  } catch (const PeerError&) {
    outcome = {std::current_exception(), true};
  } catch (...) {
    outcome = {std::current_exception(), false};
  }
  job.end(rank, outcome.error != nullptr);
  return outcome;
}

void rethrow_first(const std::vector<Outcome>& outcomes) {
  for (const bool peers_fault : {false, true}) {
    for (const Outcome& outcome : outcomes) {
      if (outcome.error != nullptr && outcome.peers_fault == peers_fault) {
        std::rethrow_exception(outcome.error);
      }
    }
  }
}

}  // namespace
}  // namespace local

void run_local(int ranks, const std::function<void(Communicator&)>& work) {
  require(ranks >= 1, "a local job has at least one rank");
  std::vector<int> job_ranks(static_cast<size_t>(ranks));
  std::iota(job_ranks.begin(), job_ranks.end(), 0);
  const auto job = std::make_shared<local::Job>(ranks);
  const auto group = std::make_shared<local::Group>(job, std::move(job_ranks));
  std::vector<local::Outcome> outcomes(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  threads.reserve(outcomes.size());
  for (int r = 0; r < ranks; ++r) {
    local::Outcome& outcome = outcomes[static_cast<size_t>(r)];
    try {
      threads.emplace_back([&, r] { outcome = local::run_rank(*job, group, r, work); });
    } catch (const std::system_error& error) {
      outcome.error = std::make_exception_ptr(
          CommError(fmt::format("cannot start thread {} of {}: {}", r + 1, ranks, error.what())));
      job->end(r, true);
      break;
    }
  }
  for (std::thread& thread : threads) thread.join();
  local::rethrow_first(outcomes);
}

}  // namespace rwkv
