#include <cstring>

#include "parallel/exchanges.h"

namespace rwkv {
namespace {

class GatherExchange final : public StateExchange {
 public:
  GatherExchange(Communicator& sequence, const Backend& backend, const ExchangeLayout& sizes,
                 Arena& arena)
      : StateExchange(sequence, backend, sizes, arena) {
    const Shape all = sizes.maps(sequence.size() * sizes.tiles);
    maps_ = arena.take("exchange", sizes.acc, all);
    added_ = arena.take("exchange", sizes.acc, all);
  }

  void send_maps(const Stream& stream, int64_t, ConstTensor m, ConstTensor b) override {
    gather(stream, m, b);
  }

  void receive_state(const Stream& stream, int64_t layer, Tensor s_in) override {
    wait();
    const int64_t before = rank() * layout().tiles;
    const ConstTensor entering = place().first ? ConstTensor{} : carry(layer);
    if (!s_in.empty()) fold(stream, 0, before, false, entering, s_in);
    if (place().last) return;
    const ConstTensor from = s_in.empty() ? entering : ConstTensor(s_in);
    fold(stream, before, ranks() * layout().tiles, false, from, carry(layer));
  }

  void send_adjoints(const Stream& stream, int64_t, ConstTensor m, ConstTensor c) override {
    gather(stream, m, c);
  }

  void receive_gradient(const Stream& stream, int64_t layer, Tensor ds_out) override {
    wait();
    const int64_t all = (place().segments - 1) * layout().tiles +
                        (place().last ? place().last_tiles : layout().tiles);
    const int64_t own_end = present() ? rank() * layout().tiles + own_tiles() : all;
    const ConstTensor from_right = place().last ? ConstTensor{} : dcarry(layer);
    if (!ds_out.empty()) fold(stream, own_end, all, true, from_right, ds_out);
    if (place().first) return;
    const ConstTensor from = ds_out.empty() ? from_right : ConstTensor(ds_out);
    fold(stream, 0, own_end, true, from, dcarry(layer));
  }

  void poll() override {
    if (first_ != nullptr) first_->done();
    if (second_ != nullptr) second_->done();
  }

 private:
  // A segment's tiles go to its rank's place; a short last one leaves the rest of it unread.
  void gather(const Stream& stream, const ConstTensor& m, const ConstTensor& added) {
    Stream issuing = stream;
    for (auto [own, whole, ticket] :
         {std::tuple{&m, &maps_, &first_}, {&added, &added_, &second_}}) {
      const Tensor shard = whole->rows(rank() * layout().tiles, (rank() + 1) * layout().tiles);
      if (!own->empty()) std::memcpy(shard.data, own->data, static_cast<size_t>(own->bytes()));
      if (ranks() > 1) *ticket = comm().all_gather(shard, *whole, issuing);
    }
  }
  void wait() {
    if (ranks() == 1) return;
    first_->wait();
    second_->wait();
  }
  void fold(const Stream& stream, int64_t first, int64_t end, bool transposed, ConstTensor from,
            Tensor out) const {
    ops().wkv7_fold(stream, {.m = maps_,
                             .add = added_,
                             .first = first,
                             .end = end,
                             .transposed = transposed,
                             .from = from,
                             .out = out});
  }

  Tensor maps_, added_;  // (P tiles, B, H, N, stride): M; B, backward C
  std::unique_ptr<Ticket> first_, second_;
};

}  // namespace

std::unique_ptr<StateExchange> make_gather_exchange(Communicator& sequence, const Backend& ops,
                                                    const ExchangeLayout& layout, Arena& arena) {
  return std::make_unique<GatherExchange>(sequence, ops, layout, arena);
}

}  // namespace rwkv
