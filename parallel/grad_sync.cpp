#include "parallel/grad_sync.h"

namespace rwkv {

void GradSync::start(const Tensor& gradients, const Stream& stream) {
  if (comm_.size() == 1 || gradients.elements() == 0) return;
  Stream issuing = stream;
  under_way_.push_back(comm_.all_reduce(gradients, Reduce::kSum, issuing));
}

void GradSync::finish() {
  if (under_way_.empty()) return;
  for (const auto& ticket : under_way_) ticket->wait();
  under_way_.clear();
  comm_.settle();
}

}  // namespace rwkv
