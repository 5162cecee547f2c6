#include "parallel/state_exchange.h"

#include <algorithm>

#include "parallel/exchanges.h"

namespace rwkv {

StateExchange::StateExchange(Communicator& sequence, const Backend& ops,
                             const ExchangeLayout& layout, Arena& arena)
    : comm_(sequence), ops_(ops), layout_(layout) {
  const Shape s = layout.state();
  const Shape states{layout.layers, s[0], s[1], s[2], s[3]};
  const Shape rows{layout.layers * kHalos, layout.batch, layout.width};
  state_carry_ = arena.take("exchange", layout.acc, states);
  dstate_carry_ = arena.take("exchange", layout.acc, states);
  halo_carry_ = arena.take("exchange", layout.acc, rows);
  dhalo_carry_ = arena.take("exchange", layout.acc, rows);
}

Tensor StateExchange::halo_carry(const Tensor& carries, int64_t layer, int halo) const {
  const int64_t i = layer * kHalos + halo;
  return carries.rows(i, i + 1).reshaped({layout_.batch, layout_.width});
}

// Rank 0's left neighbour is the last rank, one group earlier: what it sends is kept.
void StateExchange::send_halo(int64_t layer, int halo, ConstTensor row, Tensor entering) {
  const Tensor kept = halo_carry(halo_carry_, layer, halo);
  const bool wraps = rank() == 0;
  if (wraps && !place_.first) copy(memory(), {}, entering, kept);
  const int to = last_segment() ? kNoRank : (rank() + 1) % ranks();
  const int left = (rank() + ranks() - 1) % ranks();
  const int from = wraps && place_.last ? kNoRank : left;
  Stream stream;
  halo_ticket_ = comm_.shift(row, to, wraps ? kept : entering, from, stream);
}

void StateExchange::send_halo_gradient(int64_t layer, int halo, ConstTensor dentering,
                                       Tensor dleaving) {
  const Tensor kept = halo_carry(dhalo_carry_, layer, halo);
  const bool wraps = rank() + 1 == ranks();
  if (last_segment()) {
    zero(memory(), {}, dleaving);
  } else if (wraps) {
    copy(memory(), {}, dleaving, kept);
  }
  const int to = first_segment() ? kNoRank : (rank() + ranks() - 1) % ranks();
  const bool none = wraps ? place_.first : last_segment();
  const int from = none ? kNoRank : (rank() + 1) % ranks();
  Stream stream;
  halo_ticket_ = comm_.shift(dentering, to, wraps ? kept : dleaving, from, stream);
}

void StateExchange::receive_halo() {
  halo_ticket_->wait();
  halo_ticket_.reset();
}

// A rank without a segment is in the last group, behind its last segment: no halo is its business.
void StateExchange::absent_forward(const Stream& stream) {
  for (int64_t layer = 0; layer < layout_.layers; ++layer) {
    send_maps(stream, layer, {}, {});
    receive_state(stream, layer, {});
  }
}

// But the last rank takes from rank 0 what belongs to the group before.
void StateExchange::absent_backward(const Stream& stream) {
  const bool wraps = rank() + 1 == ranks() && !place_.first;
  for (int64_t layer = layout_.layers; layer-- > 0;) {
    for (int halo = kHalos - 1; halo >= 0; --halo) {
      if (halo == 0) {
        send_adjoints(stream, layer, {}, {});
        receive_gradient(stream, layer, {});
      }
      if (!wraps) continue;
      Stream issuing;
      comm_.shift({}, kNoRank, halo_carry(dhalo_carry_, layer, halo), 0, issuing)->wait();
    }
  }
}

StateExchange::Carried StateExchange::carried(int64_t layer) {
  settle();
  return {halo_carry(halo_carry_, layer, 0), carry(layer), halo_carry(halo_carry_, layer, 1)};
}

StateExchange::Carried StateExchange::dcarried(int64_t layer) {
  settle();
  return {halo_carry(dhalo_carry_, layer, 0), dcarry(layer), halo_carry(dhalo_carry_, layer, 1)};
}

int64_t StateExchange::carry_bytes() const { return state_carry_.bytes() + halo_carry_.bytes(); }

void StateExchange::save_carry(std::byte* to) {
  settle();
  memory().copy({}, to, state_carry_.data, state_carry_.bytes());
  memory().copy({}, to + state_carry_.bytes(), halo_carry_.data, halo_carry_.bytes());
}

void StateExchange::restore_carry(const std::byte* from) {
  settle();
  memory().copy({}, state_carry_.data, from, state_carry_.bytes());
  memory().copy({}, halo_carry_.data, from + state_carry_.bytes(), halo_carry_.bytes());
}

ExchangeKind ExchangeKind::chosen(int ranks) const {
  constexpr int kMostGathered = 16;
  if (name != "auto") return *this;
  return {ranks <= kMostGathered ? "gather" : "ring", 1};
}

ExchangeKind find_exchange_kind(const std::string& name, Communicator& sequence) {
  if (name != "two_level") return {name, 1};
  const HostPlace place = host_place(sequence);
  const bool in_order = sequence.rank() % place.size == place.rank;
  const bool divides = sequence.size() % place.size == 0;
  const bool alike = sequence.min(place.size) == sequence.max(place.size);
  if (sequence.min(in_order && divides && alike ? 1 : 0) == 0) {
    throw InputError(
        "parallel.exchange two_level: the ranks of a sequence must fill its hosts one after the "
        "other, as many on each (mpirun --map-by core); use ring or gather");
  }
  return {name, place.size};
}

std::unique_ptr<StateExchange> make_exchange(const ExchangeKind& kind, Communicator& sequence,
                                             const Backend& ops, const ExchangeLayout& layout,
                                             Arena& arena) {
  const ExchangeKind chosen = kind.chosen(sequence.size());
  if (chosen.name == "pass_on") return make_pass_on_exchange(sequence, ops, layout, arena);
  if (chosen.name == "gather") return make_gather_exchange(sequence, ops, layout, arena);
  if (chosen.name == "ring") return make_ring_exchange(sequence, ops, layout, arena);
  require(chosen.name == "two_level" && sequence.size() % chosen.node == 0,
          "an exchange of that kind");
  return make_two_level_exchange(sequence, ops, layout, arena, chosen.node);
}

int64_t exchange_latency(const ExchangeKind& kind, int ranks) {
  if (ranks == 1) return 0;
  const ExchangeKind chosen = kind.chosen(ranks);
  if (chosen.name == "gather") return kHalos + 1;
  if (chosen.name == "ring") return kHalos + ranks - 1;
  return kHalos + (chosen.node > 1 ? 1 : 0) + ranks / chosen.node - 1;
}

}  // namespace rwkv
