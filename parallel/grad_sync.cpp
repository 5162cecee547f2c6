#include "parallel/grad_sync.h"

namespace rwkv {

void sum_gradients(Tensor gradients, Communicator& comm, const Stream& stream) {
  if (comm.size() == 1) return;
  Stream issuing = stream;
  comm.all_reduce(gradients, Reduce::kSum, issuing)->wait();
  comm.settle();
}

}  // namespace rwkv
