#include <algorithm>

#include "parallel/exchanges.h"

namespace rwkv {
namespace {

// Ranks of a node all know its maps, so each can carry a state over the whole node: it sends it to
// its counterpart in the next node, and nothing need be shared out inside.
class TwoLevelExchange final : public StateExchange {
 public:
  TwoLevelExchange(Communicator& sequence, const Backend& backend, const ExchangeLayout& sizes,
                   Arena& arena, int node_size)
      : StateExchange(sequence, backend, sizes, arena),
        node_size_(node_size),
        nodes_(sequence.size() / node_size),
        maps_(sizes, node_size, arena),
        carrying_(sizes.layers) {
    in_ = arena.take("exchange", sizes.acc, sizes.state());
    out_ = arena.take("exchange", sizes.acc, sizes.state());
  }

  void send_maps(const Stream& stream, int64_t layer, ConstTensor m, ConstTensor b) override {
    begin(stream, layer, m, b, node() > 0 && working() ? rank() - node_size_ : kNoRank);
  }
  void receive_state(const Stream& stream, int64_t layer, Tensor s_in) override {
    wait();
    if (!working()) return;
    const bool starts = place().first && node() == 0;
    const ConstTensor entered = starts       ? ConstTensor{}
                                : node() > 0 ? ConstTensor(in_)
                                             : ConstTensor(carry(layer));
    if (!s_in.empty()) fold(stream, 0, place_in_node() * layout().tiles, false, entered, s_in);
    if (place().last && next_segments() == 0) return;
    pass_on(stream, false, entered, (node() + 1) % nodes_, carry(layer));
    if (node() == 0 && !place().last) take_carry(stream, layer, nodes_ - 1, carry(layer));
  }

  void send_adjoints(const Stream& stream, int64_t layer, ConstTensor m, ConstTensor c) override {
    begin(stream, layer, m, c, next_segments() > 0 ? rank() + node_size_ : kNoRank);
  }
  void receive_gradient(const Stream& stream, int64_t layer, Tensor ds_out) override {
    wait();
    const bool last_node = node() == nodes_ - 1;
    if (working()) {
      const bool ends = place().last && next_segments() == 0;
      const ConstTensor entered = ends                  ? ConstTensor{}
                                  : next_segments() > 0 ? ConstTensor(in_)
                                                        : ConstTensor(dcarry(layer));
      if (!ds_out.empty()) {
        const int64_t own_end = place_in_node() * layout().tiles + own_tiles();
        fold(stream, own_end, node_tiles(), true, entered, ds_out);
      }
      const bool starts = place().first && node() == 0;
      if (!starts) pass_on(stream, true, entered, (node() + nodes_ - 1) % nodes_, dcarry(layer));
    }
    // The last node keeps what belongs to the group before, though it may hold nothing in this one.
    if (last_node && !place().first) take_carry(stream, layer, 0, dcarry(layer));
  }

  void poll() override {
    maps_.poll();
    for (const auto* ticket : {&receiving_, &sending_}) {
      if (*ticket != nullptr) (*ticket)->done();
    }
  }

  int64_t sent_bytes() const override {
    return StateExchange::sent_bytes() + (node_ == nullptr ? 0 : node_->sent_bytes());
  }

 private:
  int node() const { return rank() / node_size_; }
  int place_in_node() const { return rank() % node_size_; }
  int64_t segments_in(int node) const {
    return std::clamp<int64_t>(place().segments - node * node_size_, 0, node_size_);
  }
  // Whether this rank's node holds a segment: then all its ranks take part.
  bool working() const { return segments_in(node()) > 0; }
  int64_t next_segments() const { return node() + 1 < nodes_ ? segments_in(node() + 1) : 0; }
  int64_t node_tiles() const {
    const bool has_last = place().last && next_segments() == 0;
    return (segments_in(node()) - 1) * layout().tiles +
           (has_last ? place().last_tiles : layout().tiles);
  }

  void begin(const Stream& stream, int64_t layer, const ConstTensor& m, const ConstTensor& added,
             int from) {
    carrying_.settle(layer);
    Stream issuing = stream;
    if (node_ == nullptr) node_ = comm().split(node(), rank());
    maps_.gather(*node_, memory(), stream, m, added);
    if (from != kNoRank) receiving_ = comm().shift({}, kNoRank, in_, from, issuing);
  }
  void wait() {
    maps_.wait();
    if (receiving_ != nullptr) receiving_->wait();
    receiving_.reset();
  }

  // Over all of the node's tiles, to the same place in node `to`; `carried`: where it ends up when
  // there is one node alone.
  void pass_on(const Stream& stream, bool transposed, ConstTensor entered, int to, Tensor carried) {
    if (sending_ != nullptr) sending_->wait();  // out_ is free again
    sending_.reset();
    fold(stream, 0, node_tiles(), transposed, entered, nodes_ == 1 ? carried : out_);
    if (nodes_ == 1) return;
    Stream issuing = stream;
    sending_ = comm().shift(out_, to * node_size_ + place_in_node(), {}, kNoRank, issuing);
  }

  void take_carry(const Stream& stream, int64_t layer, int from, Tensor carried) {
    if (nodes_ == 1) return;
    Stream issuing = stream;
    carrying_.keep(
        layer, comm().shift({}, kNoRank, carried, from * node_size_ + place_in_node(), issuing));
  }
  void settle() override { carrying_.settle(); }

  void fold(const Stream& stream, int64_t first, int64_t end, bool transposed, ConstTensor from,
            Tensor out) const {
    maps_.fold(ops(), stream, first, end, transposed, from, out);
  }

  int node_size_, nodes_;
  std::unique_ptr<Communicator> node_;  // this rank's, from the first exchange on
  GatheredMaps maps_;                   // of the node
  Tensor in_, out_;                     // (B, H, N, N)
  std::unique_ptr<Ticket> receiving_, sending_;
  CarryTickets carrying_;
};

}  // namespace

std::unique_ptr<StateExchange> make_two_level_exchange(Communicator& sequence, const Backend& ops,
                                                       const ExchangeLayout& layout, Arena& arena,
                                                       int node_size) {
  return std::make_unique<TwoLevelExchange>(sequence, ops, layout, arena, node_size);
}

}  // namespace rwkv
