// Loss and its gradient, one row at a time: largest logit, sum of exponentials, gradient.
#pragma once

#include <cmath>

#include "kernels/cpu/isa/vector.h"
#include "kernels/cross_entropy.h"

namespace rwkv::cpu::RWKV_ISA {

// The sum of e^(x - largest), in blocks of a fixed size.
[[gnu::always_inline]] inline float sum_of_exponentials(const float* x, int64_t n, float largest) {
  constexpr int64_t kBlock = 4096;
  float total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = begin; c < end; ++c) sum += exp_fast(x[c] - largest);
    total += sum;
  }
  return total;
}

template <class T>
void cross_entropy_row(const CrossEntropy& op, int64_t r) {
  const int64_t vocab = op.logits.shape[1];
  const float* x = op.logits.as<float>() + r * vocab;
  const int32_t target = op.targets.as<int32_t>()[r];
  float largest = x[0];
#pragma omp simd reduction(max : largest)
  for (int64_t c = 0; c < vocab; ++c) largest = x[c] > largest ? x[c] : largest;
  int64_t best = 0;
  while (best < vocab - 1 && x[best] != largest) ++best;
  const float sum = sum_of_exponentials(x, vocab, largest);
  op.loss.as<float>()[r] = largest + std::log(sum) - x[target];
  op.best.as<int32_t>()[r] = static_cast<int32_t>(best);
  if (op.dlogits.empty()) return;
  T* d = op.dlogits.as<T>() + r * vocab;
  const float weight = op.weight.as<float>()[r] * static_cast<float>(op.grad_scale);
  const float scale = weight / sum;
  // Both corrections are worked out before `d` is written: it may share memory with x.
  const float at_best = exp_fast(0.0f) * scale + weight * static_cast<float>(op.l2wrap) * largest;
  const float at_target = exp_fast(x[target] - largest) * scale - weight;
#pragma omp simd
  for (int64_t c = 0; c < vocab; ++c) store(d[c], exp_fast(x[c] - largest) * scale);
  store(d[best], at_best);
  store(d[target], target == best ? at_best - weight : at_target);
}

template <class T>
void cross_entropy(const Stream& stream, const CrossEntropy& op) {
  for_blocks(stream, op.logits.shape[0], kRowBlock, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) cross_entropy_row<T>(op, r);
  });
}

}  // namespace rwkv::cpu::RWKV_ISA
