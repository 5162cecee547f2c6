#include "parallel/exchanges.h"

namespace rwkv {
namespace {

class GatherExchange final : public StateExchange {
 public:
  GatherExchange(Communicator& sequence, const Backend& backend, const ExchangeLayout& sizes,
                 Arena& arena)
      : StateExchange(sequence, backend, sizes, arena), maps_(sizes, sequence.size(), arena) {}

  void send_maps(const Stream& stream, int64_t, ConstTensor m, ConstTensor b) override {
    maps_.gather(comm(), memory(), stream, m, b);
  }

  void receive_state(const Stream& stream, int64_t layer, Tensor s_in) override {
    maps_.wait();
    const int64_t before = rank() * layout().tiles;
    const ConstTensor entering = place().first ? ConstTensor{} : carry(layer);
    if (!s_in.empty()) fold(stream, 0, before, false, entering, s_in);
    if (place().last) return;
    const ConstTensor from = s_in.empty() ? entering : ConstTensor(s_in);
    fold(stream, before, ranks() * layout().tiles, false, from, carry(layer));
  }

  void send_adjoints(const Stream& stream, int64_t, ConstTensor m, ConstTensor c) override {
    maps_.gather(comm(), memory(), stream, m, c);
  }

  void receive_gradient(const Stream& stream, int64_t layer, Tensor ds_out) override {
    maps_.wait();
    const int64_t all = (place().segments - 1) * layout().tiles +
                        (place().last ? place().last_tiles : layout().tiles);
    const int64_t own_end = present() ? rank() * layout().tiles + own_tiles() : all;
    const ConstTensor from_right = place().last ? ConstTensor{} : dcarry(layer);
    if (!ds_out.empty()) fold(stream, own_end, all, true, from_right, ds_out);
    if (place().first) return;
    const ConstTensor from = ds_out.empty() ? from_right : ConstTensor(ds_out);
    fold(stream, 0, own_end, true, from, dcarry(layer));
  }

  void poll() override { maps_.poll(); }

 private:
  void fold(const Stream& stream, int64_t first, int64_t end, bool transposed, ConstTensor from,
            Tensor out) const {
    maps_.fold(ops(), stream, first, end, transposed, from, out);
  }

  GatheredMaps maps_;
};

}  // namespace

void GatheredMaps::gather(Communicator& comm, const Memory& memory, const Stream& stream,
                          const ConstTensor& m, const ConstTensor& added) {
  Stream issuing = stream;
  const int64_t at = comm.rank() * tiles_;
  for (auto [own, whole, ticket] : {std::tuple{&m, &maps_, &first_}, {&added, &added_, &second_}}) {
    const Tensor shard = whole->rows(at, at + tiles_);
    if (!own->empty()) memory.copy(stream, shard.data, own->data, own->bytes());
    if (comm.size() > 1) *ticket = comm.all_gather(shard, *whole, issuing);
  }
}

void GatheredMaps::wait() {
  for (std::unique_ptr<Ticket>* ticket : {&first_, &second_}) {
    if (*ticket != nullptr) (*ticket)->wait();
    ticket->reset();
  }
}

void GatheredMaps::poll() {
  for (const auto* ticket : {&first_, &second_}) {
    if (*ticket != nullptr) (*ticket)->done();
  }
}

void GatheredMaps::fold(const Backend& ops, const Stream& stream, int64_t first, int64_t end,
                        bool transposed, ConstTensor from, Tensor out) const {
  ops.wkv7_fold(stream, {.m = maps_,
                         .add = added_,
                         .first = first,
                         .end = end,
                         .transposed = transposed,
                         .from = from,
                         .out = out});
}

std::unique_ptr<StateExchange> make_gather_exchange(Communicator& sequence, const Backend& ops,
                                                    const ExchangeLayout& layout, Arena& arena) {
  return std::make_unique<GatherExchange>(sequence, ops, layout, arena);
}

}  // namespace rwkv
