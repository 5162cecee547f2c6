#include "parallel/exchanges.h"

namespace rwkv {
namespace {

class RingExchange final : public StateExchange {
 public:
  RingExchange(Communicator& sequence, const Backend& backend, const ExchangeLayout& sizes,
               Arena& arena)
      : StateExchange(sequence, backend, sizes, arena), carrying_(sizes.layers) {
    in_ = arena.take("exchange", sizes.acc, sizes.state());
    out_ = arena.take("exchange", sizes.acc, sizes.state());
  }

  void send_maps(const Stream& stream, int64_t layer, ConstTensor m, ConstTensor b) override {
    begin(stream, layer, m, b, rank() > 0 ? rank() - 1 : kNoRank);
  }

  void receive_state(const Stream& stream, int64_t layer, Tensor s_in) override {
    if (!present()) return;
    finish(stream, layer, false, first_segment(), last_segment(), carry(layer), s_in);
  }

  void send_adjoints(const Stream& stream, int64_t layer, ConstTensor m, ConstTensor c) override {
    const bool inner = rank() + 1 < place().segments;
    begin(stream, layer, m, c, inner ? rank() + 1 : kNoRank);
  }

  void receive_gradient(const Stream& stream, int64_t layer, Tensor ds_out) override {
    if (present()) {
      return finish(stream, layer, true, last_segment(), first_segment(), dcarry(layer), ds_out);
    }
    // The last rank keeps what belongs to the group before, though it holds nothing in this one.
    if (rank() + 1 == ranks() && !place().first) take_carry(stream, layer, 0, dcarry(layer));
  }

  void poll() override {
    if (receiving_ != nullptr) receiving_->done();
    if (sending_ != nullptr) sending_->done();
  }

 private:
  void begin(const Stream& stream, int64_t layer, const ConstTensor& m, const ConstTensor& added,
             int from) {
    carrying_.settle(layer);
    if (!present()) return;
    maps_ = m;
    added_ = added;
    from_ = from;
    Stream issuing = stream;
    if (from != kNoRank) receiving_ = comm().shift({}, kNoRank, in_, from, issuing);
  }

  // Takes the state from the neighbour before (in the direction of travel), or from the carry,
  // folds it over the own tiles and passes it on. `result`: what entered; empty: nothing did.
  void finish(const Stream& stream, int64_t layer, bool transposed, bool starts, bool ends,
              Tensor carried, Tensor result) {
    if (receiving_ != nullptr) receiving_->wait();
    receiving_.reset();
    const ConstTensor entered = from_ != kNoRank ? in_ : carried;
    if (!result.empty()) fold(stream, transposed, 0, starts ? ConstTensor{} : entered, result);
    if (sending_ != nullptr) sending_->wait();  // out_ is free again
    sending_.reset();
    if (ends) return;
    fold(stream, transposed, own_tiles(), starts ? ConstTensor{} : entered, out_);
    const int step = transposed ? -1 : 1;
    Stream issuing = stream;
    const int to = (rank() + step + ranks()) % ranks();
    if (to == rank()) {
      comm().shift(out_, to, carried, to, issuing)->wait();
      return;
    }
    sending_ = comm().shift(out_, to, {}, kNoRank, issuing);
    const int first = transposed ? ranks() - 1 : 0, last = transposed ? 0 : ranks() - 1;
    if (rank() == first) take_carry(stream, layer, last, carried);
  }

  // What leaves the group comes round to the rank that starts the next one, which need not wait
  // before it gets there.
  void take_carry(const Stream& stream, int64_t layer, int from, Tensor carried) {
    const bool forward_end = place().last && from == ranks() - 1;
    const bool backward_end = place().first && from == 0;
    if (forward_end || backward_end) return;
    Stream issuing = stream;
    carrying_.keep(layer, comm().shift({}, kNoRank, carried, from, issuing));
  }
  void settle() override { carrying_.settle(); }

  void fold(const Stream& stream, bool transposed, int64_t tiles, ConstTensor from,
            Tensor out) const {
    ops().wkv7_fold(stream, {.m = maps_,
                             .add = added_,
                             .first = 0,
                             .end = tiles,
                             .transposed = transposed,
                             .from = from,
                             .out = out});
  }

  Tensor in_, out_;  // (B, H, N, N)
  ConstTensor maps_, added_;
  int from_ = kNoRank;
  std::unique_ptr<Ticket> receiving_, sending_;
  CarryTickets carrying_;
};

}  // namespace

std::unique_ptr<StateExchange> make_ring_exchange(Communicator& sequence, const Backend& ops,
                                                  const ExchangeLayout& layout, Arena& arena) {
  return std::make_unique<RingExchange>(sequence, ops, layout, arena);
}

}  // namespace rwkv
