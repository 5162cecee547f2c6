#pragma once

#include "core/base/stream.h"
#include "kernels/cross_entropy.h"
#include "kernels/reference/scalar.h"

namespace rwkv::reference {

template <class S>
void cross_entropy(const Stream&, const CrossEntropy& op) {
  const int64_t vocab = op.logits.shape[1], rows = op.logits.shape[0];
  const int32_t* targets = op.targets.as<int32_t>();
  const float* weights = op.weight.as<float>();
  for (int64_t r = 0; r < rows; ++r) {
    const S* x = op.logits.as<S>() + r * vocab;
    int64_t best = 0;
    for (int64_t c = 1; c < vocab; ++c) {
      if (real_part(x[c]) > real_part(x[best])) best = c;
    }
    const S largest = x[best];
    S sum = 0;
    for (int64_t c = 0; c < vocab; ++c) sum += std::exp(x[c] - largest);
    op.loss.as<S>()[r] = largest + std::log(sum) - x[targets[r]];
    op.best.as<int32_t>()[r] = static_cast<int32_t>(best);
    if (op.dlogits.empty()) continue;
    S* d = op.dlogits.as<S>() + r * vocab;
    const S weight = S(static_cast<double>(weights[r]) * op.grad_scale);
    for (int64_t c = 0; c < vocab; ++c) {
      S g = std::exp(x[c] - largest) / sum;
      if (c == targets[r]) g -= S(1);
      if (c == best) g += S(op.l2wrap) * largest;
      d[c] = weight * g;
    }
  }
}

}  // namespace rwkv::reference
