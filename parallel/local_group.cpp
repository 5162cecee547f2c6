#include "parallel/local_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <type_traits>

namespace rwkv::local {

namespace {

std::string_view name_of(Call call) {
  switch (call) {
    case Call::kAllReduce:
      return "all_reduce";
    case Call::kAllGather:
      return "all_gather";
    case Call::kBroadcast:
      return "broadcast";
    case Call::kBarrier:
      return "barrier";
    case Call::kSplit:
      return "split";
  }
  return "?";
}

std::string describe(const Share& share) {
  std::string text = fmt::format("{} of {} {}", name_of(share.call), share.out.elements(),
                                 rwkv::name_of(share.out.dtype));
  if (share.call == Call::kAllReduce) text += fmt::format(", operation {}", share.how);
  if (share.call == Call::kBroadcast) text += fmt::format(", root {}", share.how);
  return text;
}

void check_agreement(const std::vector<Share>& shares) {
  const Share& first = shares.front();
  for (size_t r = 1; r < shares.size(); ++r) {
    const Share& other = shares[r];
    const bool same = other.call == first.call && other.out.dtype == first.out.dtype &&
                      other.out.elements() == first.out.elements() &&
                      (first.call == Call::kSplit || other.how == first.how);
    if (!same) {
      throw CommError(
          fmt::format("ranks of the local job disagree: rank 0 calls {}, rank {} calls {}",
                      describe(first), r, describe(other)));
    }
  }
}

template <class T>
T reduce_two(T a, T b, Reduce how) {
  switch (how) {
    case Reduce::kMax:
      return b > a ? b : a;
    case Reduce::kMin:
      return b < a ? b : a;
    case Reduce::kSum:
      break;
  }
  if constexpr (std::is_integral_v<T>) {
    // Wraps, as in hardware; signed overflow would be undefined.
    using Bits = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Bits>(a) + static_cast<Bits>(b));
  } else {
    return a + b;
  }
}

template <class T>
void reduce_all(const std::vector<Share>& shares) {
  constexpr int64_t kBlock = 1024;
  const auto how = static_cast<Reduce>(shares.front().how);
  const int64_t elements = shares.front().out.elements();
  std::array<T, kBlock> result;
  for (int64_t begin = 0; begin < elements; begin += kBlock) {
    const int64_t count = std::min(kBlock, elements - begin);
    std::copy_n(shares.front().out.as<T>() + begin, count, result.begin());
    for (size_t r = 1; r < shares.size(); ++r) {
      const T* source = shares[r].out.as<T>() + begin;
      for (int64_t i = 0; i < count; ++i) {
        T& sum = result[static_cast<size_t>(i)];
        sum = reduce_two(sum, source[i], how);
      }
    }
    for (const Share& share : shares) {
      std::copy_n(result.begin(), count, share.out.as<T>() + begin);
    }
  }
}

void hold_all_reduce(const std::vector<Share>& shares) {
  switch (shares.front().out.dtype) {
    case DType::kF64:
      return reduce_all<double>(shares);
    case DType::kF32:
      return reduce_all<float>(shares);
    case DType::kI64:
      return reduce_all<int64_t>(shares);
    case DType::kI32:
      return reduce_all<int32_t>(shares);
    default:
      throw Error("internal: all_reduce of a type that cannot be added");
  }
}

void move_bytes(std::byte* to, const std::byte* from, int64_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

void hold_all_gather(const std::vector<Share>& shares) {
  for (const Share& receiver : shares) {
    int64_t offset = 0;
    for (const Share& sender : shares) {
      move_bytes(receiver.out.data + offset, sender.in.data, sender.in.bytes());
      offset += sender.in.bytes();
    }
  }
}

void hold_broadcast(const std::vector<Share>& shares) {
  const Share& root = shares[static_cast<size_t>(shares.front().how)];
  for (const Share& share : shares) move_bytes(share.out.data, root.out.data, root.out.bytes());
}

}  // namespace

void Group::hold_split(Meeting& meeting) const {
  struct Member {
    int color, key, rank;
  };
  std::vector<Member> members;
  for (int r = 0; r < size(); ++r) {
    const Share& share = meeting.shares[static_cast<size_t>(r)];
    if (share.how >= 0) members.push_back({share.how, share.key, r});
  }
  std::stable_sort(members.begin(), members.end(), [](const Member& a, const Member& b) {
    return std::pair(a.color, a.key) < std::pair(b.color, b.key);
  });
  meeting.seats.resize(meeting.shares.size());
  for (auto begin = members.begin(); begin != members.end();) {
    const auto end = std::find_if(begin, members.end(),
                                  [&](const Member& m) { return m.color != begin->color; });
    std::vector<int> job_ranks;
    for (auto m = begin; m != end; ++m) {
      job_ranks.push_back(job_ranks_[static_cast<size_t>(m->rank)]);
    }
    const auto group = std::make_shared<Group>(job_, std::move(job_ranks));
    for (auto m = begin; m != end; ++m) {
      meeting.seats[static_cast<size_t>(m->rank)] = {group, static_cast<int>(m - begin)};
    }
    begin = end;
  }
}

void Group::hold(Meeting& meeting) const {
  check_agreement(meeting.shares);
  switch (meeting.shares.front().call) {
    case Call::kAllReduce:
      return hold_all_reduce(meeting.shares);
    case Call::kAllGather:
      return hold_all_gather(meeting.shares);
    case Call::kBroadcast:
      return hold_broadcast(meeting.shares);
    case Call::kBarrier:
      return;
    case Call::kSplit:
      return hold_split(meeting);
  }
}

std::shared_ptr<Meeting> Group::join(int rank, uint64_t number, const Share& share) {
  auto held = job_->lock();
  job_->require_alive(held);
  std::shared_ptr<Meeting>& place = meetings_[number];
  if (place == nullptr) {
    place = std::make_shared<Meeting>();
    place->awaited = job_ranks_;
    place->shares.resize(job_ranks_.size());
  }
  const std::shared_ptr<Meeting> meeting = place;
  meeting->shares[static_cast<size_t>(rank)] = share;
  std::erase(meeting->awaited, job_ranks_[static_cast<size_t>(rank)]);
  if (meeting->awaited.empty()) {
    meetings_.erase(number);
    if (meeting->state == Pending::State::kOpen) {
      job_->carry_out(held, *meeting, [&] { hold(*meeting); });
    }
  }
  return meeting;
}

// With the lock held. The side that comes second finds the first one's transfer and completes it.
std::shared_ptr<Transfer> Group::meet(Sides sides, const ConstTensor* out, const Tensor* in) {
  auto& waiting = transfers_[sides];
  const bool sends = out != nullptr;
  std::shared_ptr<Transfer> transfer;
  if (!waiting.empty() && waiting.front()->has_out != sends) {
    transfer = waiting.front();
    waiting.pop_front();
    transfer->awaited.clear();
  } else {
    transfer = std::make_shared<Transfer>();
    transfer->has_out = sends;
    transfer->awaited = {job_ranks_[static_cast<size_t>(sends ? sides.second : sides.first)]};
    waiting.push_back(transfer);
  }
  if (sends) transfer->out = *out;
  if (in != nullptr) transfer->in = *in;
  return transfer;
}

LocalTicket::Parts Group::shift(int rank, ConstTensor out, int to, Tensor in, int from) {
  auto held = job_->lock();
  job_->require_alive(held);
  std::array<std::shared_ptr<Transfer>, 2> sides;
  if (to != kNoRank) sides[0] = meet({rank, to}, &out, nullptr);
  if (from != kNoRank) sides[1] = meet({from, rank}, nullptr, &in);
  std::array<bool, 2> ours{};  // both start under one hold of the lock: see Job::require_alive
  for (size_t i = 0; i < sides.size(); ++i) {
    if (sides[i] == nullptr || !sides[i]->awaited.empty()) continue;
    ours[i] = sides[i]->state == Pending::State::kOpen;
    if (ours[i]) sides[i]->state = Pending::State::kRunning;
  }
  for (size_t i = 0; i < sides.size(); ++i) {
    if (!ours[i]) continue;
    const auto& side = sides[i];
    job_->carry_out(held, *side, [&] {
      if (side->out.dtype != side->in.dtype || side->out.elements() != side->in.elements()) {
        throw CommError(fmt::format("shift: {} {} were sent where {} {} were awaited",
                                    side->out.elements(), rwkv::name_of(side->out.dtype),
                                    side->in.elements(), rwkv::name_of(side->in.dtype)));
      }
      move_bytes(side->in.data, side->out.data, side->out.bytes());
    });
  }
  return {sides[0], sides[1]};
}

}  // namespace rwkv::local
