// Errors that all ranks share.
#pragma once

#include <functional>

#include "parallel/communicator.h"

namespace rwkv {

// Thrown on every rank at once: rank 0 speaks, all end with the same code, MPI is finalised.
class AgreedError : public Error {
 public:
  using Error::Error;
};

// Runs `work` on every rank; it must not communicate. When it throws an Error anywhere, every rank
// throws an AgreedError with the message and code of the lowest such rank. Collective.
void agree(Communicator&, const std::function<void()>& work);

// The same with `work` on rank 0 alone. Collective.
void on_root(Communicator&, const std::function<void()>& work);

// Runs `work` on ranks 0 ... active - 1, which get a communicator of their own, while the others
// wait for what it returns, or the AgreedError that it throws on all of them. Collective.
int64_t on_first(Communicator&, int active, const std::function<int64_t(Communicator&)>& work);
// The same on the ranks that say so, rank 0 among them.
int64_t on_some(Communicator&, bool works, const std::function<int64_t(Communicator&)>& work);

}  // namespace rwkv
