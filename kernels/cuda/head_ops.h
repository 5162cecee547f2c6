// Cross entropy: a block a row reads its logits twice and writes their gradient.
#pragma once

#include "kernels/cross_entropy.h"
#include "kernels/cuda/device.h"

namespace rwkv::cuda {

template <class T>
struct CrossEntropyKernel {
  const float* logits;
  const int32_t* targets;
  const float* weight;
  float* loss;
  int32_t* best;
  T* dlogits;  // nullptr: forward alone
  int64_t vocab;
  float l2wrap;

  RWKV_DEVICE void operator()() const {
    auto* scratch = reinterpret_cast<float*>(device::shared_memory());
    const int64_t r = block_index(), step = device::thread_count();
    const float* x = logits + r * vocab;
    const int64_t target = targets[r];
    const float at_target = x[target];  // dlogits may lie where the logits do
    const int64_t largest = argmax(x, scratch);
    const float top = x[largest];
    device::sync_block();
    float sum = 0;
    for (int64_t c = thread_index(); c < vocab; c += step) sum += expf(x[c] - top);
    sum = block_sum(sum, scratch);
    if (thread_index() == 0) {
      loss[r] = top + logf(sum) - at_target;
      best[r] = static_cast<int32_t>(largest);
    }
    if (dlogits == nullptr) return;
    const float w = weight[r];
    for (int64_t c = thread_index(); c < vocab; c += step) {
      float g = expf(x[c] - top) / sum;
      if (c == target) g -= 1;
      if (c == largest) g += l2wrap * top;
      store(dlogits + r * vocab + c, w * g);
    }
  }

 private:
  // The place of the largest, the lowest among equals, on every thread.
  RWKV_DEVICE int64_t argmax(const float* x, float* scratch) const {
    const int threads = device::thread_count(), me = thread_index();
    auto* places = reinterpret_cast<int64_t*>(scratch);
    int64_t mine = me < vocab ? me : 0;
    for (int64_t c = me; c < vocab; c += threads) {
      if (x[c] > x[mine]) mine = c;
    }
    places[me] = mine;
    for (int half = threads / 2; half > 0; half /= 2) {
      device::sync_block();
      if (me >= half) continue;
      const int64_t other = places[me + half];
      const bool wins = x[other] > x[places[me]];
      if (wins || (x[other] == x[places[me]] && other < places[me])) places[me] = other;
    }
    device::sync_block();
    return places[0];
  }
};
template <class T>
struct CrossEntropyOp {
  static void run(const Stream& stream, const CrossEntropy& op) {
    device::launch(
        stream, {op.logits.shape[0], kThreads, kThreads * 8},
        CrossEntropyKernel<T>{in<float>(op.logits), in<int32_t>(op.targets), in<float>(op.weight),
                              out<float>(op.loss), out<int32_t>(op.best), out<T>(op.dlogits),
                              op.logits.shape[1], static_cast<float>(op.l2wrap)});
  }
};
inline void cross_entropy(const Stream& stream, const CrossEntropy& op) {
  by_type<CrossEntropyOp>(op.dlogits.empty() ? DType::kF32 : op.dlogits.dtype, stream, op);
}

}  // namespace rwkv::cuda
