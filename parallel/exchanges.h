// The kinds of exchange that make_exchange() chooses from; included in parallel/ only.
#pragma once

#include "parallel/state_exchange.h"

namespace rwkv {

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

}  // namespace rwkv
