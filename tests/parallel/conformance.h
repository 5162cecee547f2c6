// What every communicator must do, whatever carries it. A check is collective, leaves the
// communicator ready for the next one, and throws std::runtime_error where it finds a fault; the
// ranks are taken to be on one host.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/base/hash.h"
#include "parallel/communicator.h"
#include "tests/parallel/conformance_data.h"

namespace rwkv::conformance {

inline void knows_its_place(Communicator& comm) {
  expect(comm.rank() >= 0 && comm.rank() < comm.size(), "rank in range");
  std::vector<int64_t> ranks(static_cast<size_t>(comm.size()), -1);
  const int64_t mine = comm.rank();
  Stream stream;
  comm.all_gather(view_of(&mine, {1}), view_of(ranks.data(), {comm.size()}), stream)->wait();
  for (int r = 0; r < comm.size(); ++r) {
    expect(ranks[static_cast<size_t>(r)] == r, "every rank is there once, in order");
  }
  const HostPlace place = host_place(comm);
  expect(place.size == comm.size() && place.rank == comm.rank(), "all ranks are on this host");
}

// Small whole numbers: sums are exact in every type.
inline int small_number(int rank, int64_t i) {
  return static_cast<int>(mixed(rank, i) % 201) - 100;
}

template <class T>
void reduces_exactly(Communicator& comm) {
  Stream stream;
  constexpr DType type = kDTypeOf<T>;
  for (const Reduce how : {Reduce::kSum, Reduce::kMax, Reduce::kMin}) {
    for (const int64_t count : odd_sizes(how == Reduce::kSum ? type : DType::kI32)) {
      std::vector<T> values(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) {
        values[static_cast<size_t>(i)] = static_cast<T>(small_number(comm.rank(), i));
      }
      comm.all_reduce(view_of(values.data(), {count}), how, stream)->wait();
      for (int64_t i = 0; i < count; ++i) {
        int want = small_number(0, i);
        for (int r = 1; r < comm.size(); ++r) {
          const int other = small_number(r, i);
          want = how == Reduce::kSum   ? want + other
                 : how == Reduce::kMax ? std::max(want, other)
                                       : std::min(want, other);
        }
        expect(values[static_cast<size_t>(i)] == static_cast<T>(want),
               "all_reduce of " + label(type, count));
      }
    }
  }
}

inline void all_reduce_is_exact(Communicator& comm) {
  reduces_exactly<double>(comm);
  reduces_exactly<float>(comm);
  reduces_exactly<int64_t>(comm);
  reduces_exactly<int32_t>(comm);
}

inline void all_reduce_keeps_64_bits(Communicator& comm) {
  int64_t value = (int64_t{1} << 53) + 1 + comm.rank();
  Stream stream;
  comm.all_reduce(view_of(&value, {1}), Reduce::kMax, stream)->wait();
  expect(value == (int64_t{1} << 53) + comm.size(), "int64 beyond the reach of double");
}

// Numbers of many magnitudes, so that the order of additions shows in the bits.
template <class T>
uint64_t hash_of_noise_summed(Communicator& comm, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t x = mixed(comm.rank(), i);
    const double mantissa = static_cast<double>(x >> 11) * 0x1p-53 - 0.5;
    values[static_cast<size_t>(i)] =
        static_cast<T>(std::ldexp(mantissa, static_cast<int>(x % 40) - 20));
  }
  Stream stream;
  comm.all_reduce(view_of(values.data(), {count}), Reduce::kSum, stream)->wait();
  return hash64(std::as_bytes(std::span(values)));
}

inline void sums_have_the_same_bits_on_all_ranks_and_each_time(Communicator& comm) {
  for (const int64_t count : {1, 7, 5000, 1000003}) {
    for (const bool wide : {false, true}) {
      const auto sum = wide ? hash_of_noise_summed<double> : hash_of_noise_summed<float>;
      const auto hash = static_cast<int64_t>(sum(comm, count));
      expect(comm.min(hash) == comm.max(hash), "ranks differ at " + std::to_string(count));
      expect(static_cast<int64_t>(sum(comm, count)) == hash, "a repetition differs");
    }
  }
}

inline void all_gather_places_shards_by_rank(Communicator& comm) {
  Stream stream;
  const auto me = static_cast<size_t>(comm.rank());
  for (const bool in_place : {false, true}) {
    for (const DType type : kAllTypes) {
      for (const int64_t count : odd_sizes(type)) {
        Bytes shard(type, count), whole(type, count * comm.size());
        shard.fill(comm.rank());
        const size_t bytes = shard.data.size();
        ConstTensor source = shard.view();
        if (in_place) {
          std::copy(shard.data.begin(), shard.data.end(), whole.data.data() + me * bytes);
          source.data = whole.data.data() + me * bytes;
        }
        comm.all_gather(source, whole.view(), stream)->wait();
        for (size_t r = 0; r < static_cast<size_t>(comm.size()); ++r) {
          expect(whole.holds(static_cast<int>(r), r * bytes, (r + 1) * bytes),
                 "all_gather of " + label(type, count));
        }
      }
    }
  }
}

inline void broadcast_comes_from_any_root(Communicator& comm) {
  Stream stream;
  for (const int root : {0, comm.size() / 2, comm.size() - 1}) {
    for (const DType type : kAllTypes) {
      for (const int64_t count : odd_sizes(type)) {
        Bytes tensor(type, count);
        tensor.fill(comm.rank());
        comm.broadcast(tensor.view(), root, stream)->wait();
        expect(tensor.holds(root), "broadcast of " + label(type, count));
      }
    }
  }
}

inline void text_is_gathered_with_its_lengths(Communicator& comm) {
  const auto text_of = [](int rank) {
    return std::string(static_cast<size_t>(rank * 5 % 3), static_cast<char>('a' + rank));
  };
  const std::vector<std::string> texts = comm.gather(text_of(comm.rank()));
  expect(texts.size() == static_cast<size_t>(comm.size()), "a text of each rank");
  for (int r = 0; r < comm.size(); ++r) {
    expect(texts[static_cast<size_t>(r)] == text_of(r), "text of rank " + std::to_string(r));
  }
  expect(comm.gather("") == std::vector<std::string>(texts.size()), "nothing at all");
}

inline void text_is_broadcast_with_its_length(Communicator& comm) {
  for (const int root : {0, comm.size() - 1}) {
    for (const std::string& text :
         {std::string(), std::string("one"), std::string("a\0b", 3), std::string(100000, 'x')}) {
      const bool mine = comm.rank() == root;
      const std::string got =
          comm.broadcast(mine ? text : std::string(static_cast<size_t>(comm.rank()), '?'), root);
      expect(got == text, "text of " + std::to_string(text.size()) + " bytes");
    }
  }
}

inline void scalars_are_reduced(Communicator& comm) {
  const int64_t n = comm.size();
  expect(comm.sum(comm.rank() + 0.5) == static_cast<double>(n * n) / 2, "sum");
  expect(comm.min(10 - comm.rank()) == 11 - n, "min");
  expect(comm.max(INT64_MIN + comm.rank()) == INT64_MIN + n - 1, "max");
}

inline int wrapped(Communicator& comm, int rank) {
  return (rank % comm.size() + comm.size()) % comm.size();
}

inline void shift_goes_round_a_ring(Communicator& comm) {
  Stream stream;
  for (const int step : {1, -1, 2, comm.size()}) {
    const int to = wrapped(comm, comm.rank() + step), from = wrapped(comm, comm.rank() - step);
    for (const DType type : kAllTypes) {
      for (const int64_t count : odd_sizes(type)) {
        Bytes out(type, count), in(type, count);
        out.fill(comm.rank());
        comm.shift(out.view(), to, in.view(), from, stream)->wait();
        expect(in.holds(from) && out.holds(comm.rank()), "ring of " + label(type, count));
      }
    }
  }
}

inline void shift_along_a_chain_leaves_the_end_alone(Communicator& comm) {
  Stream stream;
  const bool first = comm.rank() == 0, last = comm.rank() + 1 == comm.size();
  Bytes out(DType::kF32, 7), in(DType::kF32, 7);
  out.fill(comm.rank());
  in.fill(1000);
  comm.shift(out.view(), last ? kNoRank : comm.rank() + 1, in.view(),
             first ? kNoRank : comm.rank() - 1, stream)
      ->wait();
  expect(in.holds(first ? 1000 : comm.rank() - 1), "to the right");
  in.fill(1000);
  comm.shift(out.view(), first ? kNoRank : comm.rank() - 1, in.view(),
             last ? kNoRank : comm.rank() + 1, stream)
      ->wait();
  expect(in.holds(last ? 1000 : comm.rank() + 1), "to the left");
  comm.shift({}, kNoRank, {}, kNoRank, stream)->wait();
}

// Each rank receives before it sends: calls of different number meet.
inline void shift_can_run_down_a_chain(Communicator& comm) {
  Stream stream;
  int64_t carried = 0;
  if (comm.rank() > 0) {
    comm.shift({}, kNoRank, view_of(&carried, {1}), comm.rank() - 1, stream)->wait();
  }
  carried = carried * 3 + 1;
  if (comm.rank() + 1 < comm.size()) {
    comm.shift(view_of(&carried, {1}), comm.rank() + 1, {}, kNoRank, stream)->wait();
  }
  int64_t want = 0;
  for (int r = 0; r <= comm.rank(); ++r) want = want * 3 + 1;
  expect(carried == want, "value handed down");
}

inline void shifts_between_two_ranks_keep_their_order(Communicator& comm) {
  Stream stream;
  const int to = wrapped(comm, comm.rank() + 1), from = wrapped(comm, comm.rank() - 1);
  std::vector<int32_t> out(5), in(5, -1);
  std::vector<std::unique_ptr<Ticket>> tickets;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<int32_t>(i) * 100 + comm.rank();
    tickets.push_back(comm.shift(view_of(&out[i], {1}), to, view_of(&in[i], {1}), from, stream));
  }
  for (size_t i = out.size(); i-- > 0;) tickets[i]->wait();
  for (size_t i = 0; i < in.size(); ++i) {
    expect(in[i] == static_cast<int32_t>(i) * 100 + from, "order of shifts");
  }
}

inline void tickets_are_waited_for_in_any_order(Communicator& comm) {
  Stream stream;
  const int root = comm.size() - 1;
  std::vector<double> sum(1000, comm.rank() + 1.0);
  std::vector<float> top(77, static_cast<float>(comm.rank()));
  Bytes shard(DType::kU16, 33), whole(DType::kU16, 33 * comm.size()), sent(DType::kBF16, 501);
  shard.fill(comm.rank());
  sent.fill(comm.rank());
  auto a = comm.all_reduce(view_of(sum.data(), {1000}), Reduce::kSum, stream);
  auto b = comm.all_gather(shard.view(), whole.view(), stream);
  auto c = comm.broadcast(sent.view(), root, stream);
  auto d = comm.all_reduce(view_of(top.data(), {77}), Reduce::kMax, stream);
  d->wait();
  c->wait();
  c->wait();
  while (!a->done()) std::this_thread::yield();
  a->wait();
  b->wait();
  const double n = comm.size();
  expect(std::all_of(sum.begin(), sum.end(), [&](double v) { return v == n * (n + 1) / 2; }),
         "sum in flight");
  expect(
      std::all_of(top.begin(), top.end(), [&](float v) { return v == static_cast<float>(root); }),
      "maximum in flight");
  expect(sent.holds(root), "broadcast in flight");
  for (int r = 0; r < comm.size(); ++r) {
    const auto begin = static_cast<size_t>(r) * shard.data.size();
    expect(whole.holds(r, begin, begin + shard.data.size()), "all_gather in flight");
  }
}

inline void a_ticket_let_go_is_waited_for(Communicator& comm) {
  Stream stream;
  std::vector<int64_t> values(3001, 1);
  comm.all_reduce(view_of(values.data(), {3001}), Reduce::kSum, stream).reset();
  expect(std::all_of(values.begin(), values.end(), [&](int64_t v) { return v == comm.size(); }),
         "sum of a ticket let go");
}

inline int64_t now() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

// The clock is the host's, so times of different ranks compare.
inline void nobody_leaves_a_barrier_before_all_have_come(Communicator& comm) {
  for (int late = 0; late < comm.size(); ++late) {
    if (comm.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    const int64_t came = now();
    comm.barrier();
    const int64_t left = now();
    const int64_t last_came = comm.max(came), first_left = comm.min(left);
    expect(first_left >= last_came, "barrier");
  }
}

inline void split_orders_by_key_then_rank(Communicator& comm) {
  const int color = comm.rank() % 2;
  const auto half = comm.split(color, -comm.rank());
  const int members = (comm.size() + 1 - color) / 2;
  expect(half->size() == members && half->name() == comm.name(), "size of a half");
  expect(half->rank() == members - 1 - comm.rank() / 2, "reversed order");
  double want = 0;
  for (int r = color; r < comm.size(); r += 2) want += r;
  expect(half->sum(comm.rank()) == want, "sum over a half");
  expect(comm.sum(1) == comm.size(), "the whole still works");
  const auto same = comm.split(7, 0);
  expect(same->rank() == comm.rank() && same->size() == comm.size(), "equal keys keep the order");
  expect(same->max(comm.rank()) == comm.size() - 1, "maximum over a copy");
}

inline void split_leaves_out_negative_colours(Communicator& comm) {
  const bool inside = comm.rank() == comm.size() - 1;
  const auto part = comm.split(inside ? 3 : -1, 0);
  expect((part != nullptr) == inside, "who is in");
  if (part != nullptr) expect(part->size() == 1 && part->sum(4) == 4, "one alone");
}

inline void splits_nest_and_traffic_stays_apart(Communicator& comm) {
  Stream stream;
  const auto half = comm.split(comm.rank() < (comm.size() + 1) / 2 ? 0 : 1, comm.rank());
  const auto quarter = half->split(half->rank() % 2, -half->rank());
  std::vector<int64_t> a(100, 1), b(100, 1), c(100, 1);
  auto of_quarter = quarter->all_reduce(view_of(c.data(), {100}), Reduce::kSum, stream);
  auto of_whole = comm.all_reduce(view_of(a.data(), {100}), Reduce::kSum, stream);
  auto of_half = half->all_reduce(view_of(b.data(), {100}), Reduce::kSum, stream);
  of_whole->wait();
  of_quarter->wait();
  of_half->wait();
  expect(a[99] == comm.size() && b[99] == half->size() && c[99] == quarter->size(), "three sums");
  expect(host_place(*quarter).size == quarter->size(), "place of a part");
}

inline void bad_arguments_are_refused(Communicator& comm) {
  Stream stream;
  const int n = comm.size();
  std::vector<float> some(64);
  std::vector<double> wide(64);
  const auto part = [&](int64_t count) { return view_of(some.data(), {count}); };
  Tensor nothing = part(4);
  nothing.data = nullptr;
  Bytes halves(DType::kBF16, 4);
  const uint64_t before = comm.operations();
  const auto refused = [](const std::string& what, const auto& call) {
    expect_throw<Error>(call, what);
  };
  refused("reduce of bf16", [&] { comm.all_reduce(halves.view(), Reduce::kSum, stream); });
  refused("reduce of nothing", [&] { comm.all_reduce(nothing, Reduce::kSum, stream); });
  refused("gather of a wrong size",
          [&] { comm.all_gather(part(3), view_of(some.data() + 8, {3 * n + 1}), stream); });
  refused("gather of two types",
          [&] { comm.all_gather(part(1), view_of(wide.data(), {n}), stream); });
  refused("gather that overlaps", [&] {
    comm.all_gather(view_of(some.data() + 1 + 2 * comm.rank(), {2}), part(2 * n), stream);
  });
  refused("root beyond the ranks", [&] { comm.broadcast(part(1), n, stream); });
  refused("negative root", [&] { comm.broadcast(part(1), -1, stream); });
  refused("partner beyond the ranks", [&] { comm.shift(part(1), n, {}, kNoRank, stream); });
  refused("partner below none", [&] { comm.shift({}, kNoRank, part(1), -2, stream); });
  refused("to oneself alone", [&] { comm.shift(part(1), comm.rank(), {}, kNoRank, stream); });
  refused("to oneself, other size", [&] {
    comm.shift(part(1), comm.rank(), view_of(some.data() + 8, {2}), comm.rank(), stream);
  });
  refused("shift onto itself",
          [&] { comm.shift(part(2), comm.rank(), part(2), comm.rank(), stream); });
  refused("send of nothing", [&] { comm.shift(nothing, n - 1, {}, kNoRank, stream); });
  expect(comm.operations() == before, "what was refused does not count");
  expect(comm.sum(1) == n, "still in working order");
}

inline void operations_are_counted(Communicator& comm) {
  Stream stream;
  const uint64_t before = comm.operations();
  float value = 0;
  comm.barrier();
  comm.all_reduce(view_of(&value, {1}), Reduce::kSum, stream)->wait();
  comm.broadcast(view_of(&value, {1}), 0, stream)->wait();
  comm.shift({}, kNoRank, {}, kNoRank, stream)->wait();
  const auto copy = comm.split(0, 0);
  expect(comm.operations() == before + 5, "five operations");
  expect(copy->operations() == 0, "a new communicator counts from 0");
}

struct Check {
  const char* name;  // letters and digits
  void (*run)(Communicator&);
};

inline const std::vector<Check>& all_checks() {
  static const std::vector<Check> checks = {
      {"KnowsItsPlace", knows_its_place},
      {"AllReduceIsExact", all_reduce_is_exact},
      {"AllReduceKeeps64Bits", all_reduce_keeps_64_bits},
      {"SumsHaveTheSameBits", sums_have_the_same_bits_on_all_ranks_and_each_time},
      {"AllGatherPlacesShardsByRank", all_gather_places_shards_by_rank},
      {"BroadcastComesFromAnyRoot", broadcast_comes_from_any_root},
      {"TextIsBroadcastWithItsLength", text_is_broadcast_with_its_length},
      {"TextIsGatheredWithItsLengths", text_is_gathered_with_its_lengths},
      {"ScalarsAreReduced", scalars_are_reduced},
      {"ShiftGoesRoundARing", shift_goes_round_a_ring},
      {"ShiftAlongAChainLeavesTheEndAlone", shift_along_a_chain_leaves_the_end_alone},
      {"ShiftCanRunDownAChain", shift_can_run_down_a_chain},
      {"ShiftsBetweenTwoRanksKeepTheirOrder", shifts_between_two_ranks_keep_their_order},
      {"TicketsAreWaitedForInAnyOrder", tickets_are_waited_for_in_any_order},
      {"ATicketLetGoIsWaitedFor", a_ticket_let_go_is_waited_for},
      {"NobodyLeavesABarrierBeforeAllHaveCome", nobody_leaves_a_barrier_before_all_have_come},
      {"SplitOrdersByKeyThenRank", split_orders_by_key_then_rank},
      {"SplitLeavesOutNegativeColours", split_leaves_out_negative_colours},
      {"SplitsNestAndTrafficStaysApart", splits_nest_and_traffic_stays_apart},
      {"BadArgumentsAreRefused", bad_arguments_are_refused},
      {"OperationsAreCounted", operations_are_counted},
  };
  return checks;
}

}  // namespace rwkv::conformance
