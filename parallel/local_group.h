// The ranks of one local communicator: where their calls meet.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "parallel/local_job.h"

namespace rwkv::local {

enum class Call : uint8_t { kAllReduce, kAllGather, kBroadcast, kBarrier, kSplit };

// What one rank brings to a collective call.
struct Share {
  Call call = Call::kBarrier;
  ConstTensor in{};  // all_gather: the shard
  Tensor out{};      // all_reduce, broadcast: in and out; all_gather: whole
  int how = 0;       // all_reduce: the Reduce; broadcast: the root; split: the colour
  int key = 0;       // split
};

class Group;

// One collective call. The rank that comes last carries it out for all, ranks in order, so that the
// result does not depend on who comes when.
struct Meeting final : Pending {
  std::vector<Share> shares;

  struct Seat {
    std::shared_ptr<Group> group;  // nullptr: a negative colour
    int rank = 0;
  };
  std::vector<Seat> seats;  // split: the new group of each rank
};

// One side of a shift met by the other side.
struct Transfer final : Pending {
  ConstTensor out;
  Tensor in;
  bool has_out = false;
};

class Group : public std::enable_shared_from_this<Group> {
 public:
  // job_ranks: the numbers of its ranks in the job, by rank in the group.
  Group(std::shared_ptr<Job> job, std::vector<int> job_ranks)
      : job_(std::move(job)), job_ranks_(std::move(job_ranks)) {}

  int size() const { return static_cast<int>(job_ranks_.size()); }
  const std::shared_ptr<Job>& job() const { return job_; }

  // `rank` joins its collective call number `number` (0, 1, ...) with `share`.
  std::shared_ptr<Meeting> join(int rank, uint64_t number, const Share& share);

  LocalTicket::Parts shift(int rank, ConstTensor out, int to, Tensor in, int from);

 private:
  using Sides = std::pair<int, int>;  // from, to

  void hold(Meeting&) const;
  void hold_split(Meeting&) const;
  std::shared_ptr<Transfer> meet(Sides, const ConstTensor* out, const Tensor* in);

  std::shared_ptr<Job> job_;
  std::vector<int> job_ranks_;
  // Guarded by the job's lock.
  std::map<uint64_t, std::shared_ptr<Meeting>> meetings_;
  std::map<Sides, std::deque<std::shared_ptr<Transfer>>> transfers_;
};

}  // namespace rwkv::local
