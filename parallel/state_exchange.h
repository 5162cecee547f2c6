// What the neighbours in a sequence hand each other inside every layer: the recurrent state and the
// halo rows to the right, their gradients to the left (docs/sequence_parallelism.md).
//
// Rank p holds segment j P + p of group j. A segment's map (M, B) per tile takes the state across
// it; ranks exchange maps or states, and each finds its entering state by a fold over the tiles
// before its own. What leaves a group is kept for the next one (`carry`); backward, groups come in
// reverse. Results differ by rounding between kinds of exchange without tiles, not at all with.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "core/base/arena.h"
#include "kernels/backend.h"
#include "parallel/communicator.h"

namespace rwkv {

// Sizes of what is exchanged; the same on all ranks.
struct ExchangeLayout {
  int64_t layers = 0, batch = 0, width = 0, head_size = 0;
  int64_t tiles = 1;  // of a segment, the sequence's last one may have fewer
  DType acc = DType::kF32;

  Shape state() const { return {batch, width / head_size, head_size, head_size}; }
  Shape maps(int64_t count) const {
    return {count, batch, width / head_size, head_size, wkv7_state_stride(head_size)};
  }
};

// The group at hand.
struct GroupPlace {
  int64_t segments = 1;    // ranks 0 ... segments - 1 hold one; all do but in the last group
  bool first = true;       // nothing enters it
  bool last = true;        // nothing leaves it
  int64_t last_tiles = 1;  // tiles of its last segment
};

inline constexpr int kHalos = 2;  // a layer: before time mix, before channel mix

// One on each rank of the sequence communicator. Calls come in pairs, send ... then receive ...,
// for the same layers in the same order on all ranks; between the two other work may run, and
// poll() keeps messages moving. Ranks without a segment call absent_forward / absent_backward.
class StateExchange {
 public:
  StateExchange(Communicator& sequence, const Backend&, const ExchangeLayout&, Arena&);
  virtual ~StateExchange() = default;

  void begin_group(const GroupPlace& place) { place_ = place; }

  // row: what the right neighbour gets. entering: filled by receive_halo(), unless this is the
  // sequence's first segment.
  void send_halo(int64_t layer, int halo, ConstTensor row, Tensor entering);
  // Gradients: dentering goes to the left neighbour, dleaving (zero behind the last segment) comes
  // from the right one.
  void send_halo_gradient(int64_t layer, int halo, ConstTensor dentering, Tensor dleaving);
  void receive_halo();

  // m, b: maps of the own segment's tiles. s_in: the state before its first token; empty for the
  // sequence's first segment, which starts from zero.
  virtual void send_maps(const Stream&, int64_t layer, ConstTensor m, ConstTensor b) = 0;
  virtual void receive_state(const Stream&, int64_t layer, Tensor s_in) = 0;
  // c: what the own tokens cause. ds_out: the gradient of the state that was handed on; empty for
  // the sequence's last segment.
  virtual void send_adjoints(const Stream&, int64_t layer, ConstTensor m, ConstTensor c) = 0;
  virtual void receive_gradient(const Stream&, int64_t layer, Tensor ds_out) = 0;
  virtual void poll() = 0;
  // One rank whose recurrence runs through: no maps are wanted. What leaves a segment is left in
  // carried(), and the gradient of what enters it in dcarried(), by the recurrence itself.
  virtual bool passes_on() const { return false; }

  // Bytes that this rank has sent, on all communicators that the exchange uses.
  virtual int64_t sent_bytes() const { return comm_.sent_bytes(); }

  void absent_forward(const Stream&);
  void absent_backward(const Stream&);

  // What is kept of a layer between groups: halo, state, halo (B, ...). What the first group takes
  // when it is not place.first, to be set on all ranks; the gradient of it, which the last rank
  // has.
  using Carried = std::array<Tensor, 3>;
  Carried carried(int64_t layer);
  Carried dcarried(int64_t layer);

  // What left the last group that ran forward: a copy into `to`, and back, to run from there again
  // (bytes of carry_bytes()).
  int64_t carry_bytes() const;
  void save_carry(std::byte* to);
  void restore_carry(const std::byte* from);

 protected:
  Communicator& comm() const { return comm_; }
  const Memory& memory() const { return *ops_.memory; }
  const Backend& ops() const { return ops_; }
  const ExchangeLayout& layout() const { return layout_; }
  const GroupPlace& place() const { return place_; }
  int rank() const { return comm_.rank(); }
  int ranks() const { return comm_.size(); }
  bool present() const { return rank() < place_.segments; }
  bool first_segment() const { return place_.first && rank() == 0; }
  bool last_segment() const { return place_.last && rank() + 1 == place_.segments; }
  int64_t own_tiles() const { return last_segment() ? place_.last_tiles : layout_.tiles; }
  Tensor carry(int64_t layer) { return state_carry_.rows(layer, layer + 1).reshaped(state()); }
  Tensor dcarry(int64_t layer) { return dstate_carry_.rows(layer, layer + 1).reshaped(state()); }
  // All that this rank waits for before its carry may be read.
  virtual void settle() {}

 private:
  Shape state() const { return layout_.state(); }
  Tensor halo_carry(const Tensor& carries, int64_t layer, int halo) const;

  Communicator& comm_;
  const Backend& ops_;
  ExchangeLayout layout_;
  GroupPlace place_;
  Tensor state_carry_, dstate_carry_;  // (L, B, H, N, N)
  Tensor halo_carry_, dhalo_carry_;    // (L, 2, B, C)
  std::unique_ptr<Ticket> halo_ticket_;
};

// How states travel: auto | gather | ring | two_level; pass_on: on one rank (`node` ranks that
// follow one another are a node, and divide the ranks).
struct ExchangeKind {
  std::string name = "auto";
  int node = 1;

  // auto: gather up to 16 ranks, ring beyond.
  ExchangeKind chosen(int ranks) const;
};
// Of `name` for these ranks: two_level takes hosts for nodes. Throws InputError where ranks are not
// in order or not as many on each host. Collective.
ExchangeKind find_exchange_kind(const std::string& name, Communicator& sequence);

std::unique_ptr<StateExchange> make_exchange(const ExchangeKind&, Communicator& sequence,
                                             const Backend&, const ExchangeLayout&, Arena&);

// Messages that must follow one another for one layer of one group, forward or backward.
int64_t exchange_latency(const ExchangeKind&, int ranks);

}  // namespace rwkv
