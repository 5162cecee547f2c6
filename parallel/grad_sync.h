// The sum of gradients over ranks.
#pragma once

#include "parallel/communicator.h"

namespace rwkv {

// gradients (n) f32, f64 or i64 become the sum over all ranks of the communicator, the same bits on
// each. Those of i64 do not depend on the number of ranks; those of floats do. Collective.
void sum_gradients(Tensor gradients, Communicator&, const Stream&);

}  // namespace rwkv
