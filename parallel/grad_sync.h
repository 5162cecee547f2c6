// The sum of gradients over ranks.
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace rwkv {

class GradSync {
 public:
  virtual ~GradSync() = default;
  // gradients (n) f32 or f64 become the sum over all ranks of the communicator, the same bits on
  // each. Collective.
  virtual void reduce(Tensor gradients, const Stream&) = 0;
};

// "fast": the communicator's own all-reduce; bits depend on the number of ranks.
std::unique_ptr<GradSync> make_grad_sync(const std::string& kind, Communicator&);

}  // namespace rwkv
