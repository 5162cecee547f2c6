// The sum of gradients over ranks, piece by piece: a piece whose gradient is complete travels while
// the backward pass goes on with the layers below.
#pragma once

#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace rwkv {

class GradSync {
 public:
  // At most `pieces` of them are under way.
  GradSync(Communicator& comm, size_t pieces) : comm_(comm) { under_way_.reserve(pieces); }

  // gradients (n) f32, f64 or i64, all calls of which have been given to the stream, become the sum
  // over all ranks, the same bits on each. Those of i64 do not depend on the number of ranks; those
  // of floats do. Collective: the same pieces in the same order on all ranks.
  void start(const Tensor& gradients, const Stream&);
  // What the stream is given from now on sees all sums. Collective.
  void finish();
  bool any() const { return !under_way_.empty(); }

 private:
  Communicator& comm_;
  std::vector<std::unique_ptr<Ticket>> under_way_;
};

}  // namespace rwkv
