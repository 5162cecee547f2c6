// The kinds of exchange that make_exchange() chooses from; included in parallel/ only.
#pragma once

#include "parallel/state_exchange.h"

namespace rwkv {

// Carries on their way to the rank that keeps them: one ticket a layer.
class CarryTickets {
 public:
  explicit CarryTickets(int64_t layers) : tickets_(static_cast<size_t>(layers)) {}
  void keep(int64_t layer, std::unique_ptr<Ticket> ticket) {
    tickets_[static_cast<size_t>(layer)] = std::move(ticket);
  }
  void settle(int64_t layer) {
    std::unique_ptr<Ticket>& ticket = tickets_[static_cast<size_t>(layer)];
    if (ticket != nullptr) ticket->wait();
    ticket.reset();
  }
  void settle() {
    for (size_t layer = 0; layer < tickets_.size(); ++layer) settle(static_cast<int64_t>(layer));
  }

 private:
  std::vector<std::unique_ptr<Ticket>> tickets_;
};

// The maps of all ranks of a communicator, by all-gather, and folds over them.
class GatheredMaps {
 public:
  GatheredMaps(const ExchangeLayout& layout, int ranks, Arena& arena) : tiles_(layout.tiles) {
    const Shape all = layout.maps(ranks * layout.tiles);
    maps_ = arena.take("exchange", layout.acc, all);
    added_ = arena.take("exchange", layout.acc, all);
  }

  // A segment's tiles go to its rank's place; a short last one leaves the rest of it unread.
  void gather(Communicator&, const Memory&, const Stream&, const ConstTensor& m,
              const ConstTensor& added);
  void wait();
  void poll();
  void fold(const Backend&, const Stream&, int64_t first, int64_t end, bool transposed,
            ConstTensor from, Tensor out) const;

 private:
  int64_t tiles_;
  Tensor maps_, added_;  // (ranks tiles, B, H, N, stride): M; B, backward C
  std::unique_ptr<Ticket> first_, second_;
};

// Every rank gets every tile's map and folds for itself (LASP-2, arXiv 2502.07563): one call a
// layer and direction.
std::unique_ptr<StateExchange> make_gather_exchange(Communicator&, const Backend&,
                                                    const ExchangeLayout&, Arena&);
// The folded state goes from rank to rank: the fewest bytes, P - 1 messages in a row.
std::unique_ptr<StateExchange> make_ring_exchange(Communicator&, const Backend&,
                                                  const ExchangeLayout&, Arena&);
// Maps are gathered inside a node of `node_size` ranks that follow one another, states go from node
// to node: few messages in a row, few bytes between nodes.
std::unique_ptr<StateExchange> make_two_level_exchange(Communicator&, const Backend&,
                                                       const ExchangeLayout&, Arena&,
                                                       int node_size);

// On one rank, without tiles: the recurrence goes from segment to segment as through one sequence.
std::unique_ptr<StateExchange> make_pass_on_exchange(Communicator&, const Backend&,
                                                     const ExchangeLayout&, Arena&);

}  // namespace rwkv
