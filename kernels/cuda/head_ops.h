// Cross entropy: a block a row reads its logits once for maximum and sum together, and once more
// where it writes their gradient.
#pragma once

#include "kernels/cross_entropy.h"
#include "kernels/cuda/device.h"

namespace rwkv::cuda {

// The largest logit so far, where it is (the lowest of equals), and sum exp(x - largest).
struct RunningSoftmax {
  float largest, sum;
  int64_t at;

  RWKV_DEVICE void add(float x, int64_t place) {
    if (x > largest) {
      sum = sum * expf(largest - x) + 1;
      largest = x;
      at = place;
    } else {
      sum += expf(x - largest);
    }
  }
  RWKV_DEVICE void add(const RunningSoftmax& other) {
    const bool wins = other.largest > largest || (other.largest == largest && other.at < at);
    const RunningSoftmax &high = wins ? other : *this, &low = wins ? *this : other;
    const float total =
        low.sum == 0 ? high.sum : high.sum + low.sum * expf(low.largest - high.largest);
    const RunningSoftmax both{high.largest, total, high.at};
    *this = both;
  }
};

template <class T, int K>
struct CrossEntropyKernel {
  static constexpr int kRowThreads = 512;

  const float* logits;
  const int32_t* targets;
  const float* weight;
  float* loss;
  int32_t* best;
  T* dlogits;  // nullptr: forward alone
  int64_t vocab;
  float l2wrap, grad_scale;

  RWKV_DEVICE void operator()() const {
    const int64_t r = block_index(), step = kRowThreads * K;
    const float* x = logits + r * vocab;
    const int64_t target = targets[r];
    const float at_target = x[target];  // dlogits may lie where the logits do
    const RunningSoftmax all = of_row(x);
    if (thread_index() == 0) {
      loss[r] = all.largest + logf(all.sum) - at_target;
      best[r] = static_cast<int32_t>(all.at);
    }
    if (dlogits == nullptr) return;
    const float w = weight[r] * grad_scale, scale = w / all.sum, wrap = w * l2wrap * all.largest;
    for (int64_t c = thread_index() * K; c < vocab; c += step) {
      float g[K];
      load_run(x + c, g);
      for (int j = 0; j < K; ++j) {
        g[j] = expf(g[j] - all.largest) * scale;
        if (c + j == target) g[j] -= w;
        if (c + j == all.at) g[j] += wrap;
      }
      store_run(dlogits + r * vocab + c, g);
    }
  }

 private:
  RWKV_DEVICE RunningSoftmax of_row(const float* x) const {
    auto* partial = reinterpret_cast<RunningSoftmax*>(device::shared_memory());
    const int me = thread_index();
    RunningSoftmax mine{-INFINITY, 0, vocab};
    for (int64_t c = me * K; c < vocab; c += kRowThreads * K) {
      float run[K];
      load_run(x + c, run);
      for (int j = 0; j < K; ++j) mine.add(run[j], c + j);
    }
    partial[me] = mine;
    for (int half = kRowThreads / 2; half > 0; half /= 2) {
      device::sync_block();
      if (me < half) partial[me].add(partial[me + half]);
    }
    device::sync_block();
    return partial[0];
  }
};
template <class T, int K>
void cross_entropy_rows(const Stream& stream, const CrossEntropy& op) {
  using Kernel = CrossEntropyKernel<T, K>;
  constexpr int64_t kBytes = Kernel::kRowThreads * static_cast<int64_t>(sizeof(RunningSoftmax));
  device::launch(
      stream, {op.logits.shape[0], Kernel::kRowThreads, kBytes},
      Kernel{in<float>(op.logits), in<int32_t>(op.targets), in<float>(op.weight),
             out<float>(op.loss), out<int32_t>(op.best), out<T>(op.dlogits), op.logits.shape[1],
             static_cast<float>(op.l2wrap), static_cast<float>(op.grad_scale)});
}
template <class T>
struct CrossEntropyOp {
  static void run(const Stream& stream, const CrossEntropy& op) {
    op.logits.shape[1] % 4 == 0 ? cross_entropy_rows<T, 4>(stream, op)
                                : cross_entropy_rows<T, 1>(stream, op);
  }
};
inline void cross_entropy(const Stream& stream, const CrossEntropy& op) {
  by_type<CrossEntropyOp>(op.dlogits.empty() ? DType::kF32 : op.dlogits.dtype, stream, op);
}

}  // namespace rwkv::cuda
