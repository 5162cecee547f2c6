// Cross entropy. A block a row reads its logits once for maximum and sum together, and once more
// where it writes their gradient; or a block holds its row in between, where the device has so much
// shared memory.
#pragma once

#include "kernels/cross_entropy.h"
#include "kernels/cuda/fragments.h"

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
    const float high = wins ? other.sum : sum, low = wins ? sum : other.sum;
    const float apart = wins ? largest - other.largest : other.largest - largest;
    sum = low == 0 ? high : high + low * expf(apart);
    largest = wins ? other.largest : largest;
    at = wins ? other.at : at;
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
// Logits of a large vocabulary are read from memory once. A block takes rows in turn; each thread
// holds its own part of a row, most of it in shared memory, where the next row's lands as soon as a
// part is done with. Read again only by who wrote it, that memory needs no syncs.
template <class T>
struct HeldCrossEntropy {
  static constexpr int kBlockThreads = 1024, kBlocksPerSm = 1, kWarps = kBlockThreads / kWarp;
  // Runs of kRun logits of a thread: in shared memory, and in registers.
  static constexpr int kRun = 4, kShared = 13, kKept = 3, kStep = kBlockThreads * kRun;
  static constexpr int64_t kMostVocab = (kShared + kKept) * kStep;

  struct Room {
    Floats4 logits[kShared][kBlockThreads];
    RunningSoftmax partial[2][kWarps];  // of a row and the next
  };

  const float* logits;
  const int32_t* targets;
  const float* weight;
  float* loss;
  int32_t* best;
  T* dlogits;
  int64_t rows, vocab;
  float l2wrap, grad_scale;

  RWKV_DEVICE void operator()() const {
    Room& room = as<Room>(device::shared_memory());
    Floats4 kept[kKept];
    for (int i = 0; i < kShared; ++i) fetch(room, block_index(), i);
    device::end_copy_group();
    for (int i = 0; i < kKept; ++i) kept[i] = read(block_index(), i);
    int turn = 0;
    const int in_shared = device::opaque(kShared);
    for (int64_t r = block_index(); r < rows; r += device::block_count()) {
      const int64_t target = targets[r];
      const float at_target = logits[r * vocab + target], w = weight[r] * grad_scale;
      device::wait_copies<0>();
      const RunningSoftmax all = over_block(of_thread(room, kept), room.partial[turn]);
      turn = 1 - turn;
      if (thread_index() == 0) {
        loss[r] = all.largest + logf(all.sum) - at_target;
        best[r] = static_cast<int32_t>(all.at);
      }
      const Gradient gradient{target,      all.at, all.largest,
                              w / all.sum, w,      w * l2wrap * all.largest};
      const int64_t next = r + device::block_count();
      for (int i = 0; i < in_shared; ++i) {
        write(r, i, gradient, room.logits[i][thread_index()]);
        fetch(room, next, i);
      }
      device::end_copy_group();
      RWKV_UNROLL
      for (int i = 0; i < kKept; ++i) {
        write(r, kShared + i, gradient, kept[i]);
        kept[i] = read(next, i);
      }
    }
  }

 private:
  struct Gradient {
    int64_t target, top;
    float largest, scale, of_target, of_top;
  };

  RWKV_DEVICE static int64_t place(int run) { return run * kStep + thread_index() * kRun; }
  RWKV_DEVICE bool there(int64_t r, int run) const { return r < rows && place(run) < vocab; }

  RWKV_DEVICE void fetch(Room& room, int64_t r, int run) const {
    if (!there(r, run)) return;
    const float* from = logits + r * vocab + place(run);
    device::copy_async(reinterpret_cast<std::byte*>(&room.logits[run][thread_index()]),
                       reinterpret_cast<const std::byte*>(from), true);
  }
  RWKV_DEVICE Floats4 read(int64_t r, int kept) const {
    const int run = kShared + kept;
    if (!there(r, run)) return {};
    return *reinterpret_cast<const Floats4*>(logits + r * vocab + place(run));
  }

  RWKV_DEVICE RunningSoftmax of_thread(const Room& room, const Floats4 (&kept)[kKept]) const {
    const int in_shared = device::opaque(kShared);  // code that is unrolled would not fit its cache
    RunningSoftmax mine{-INFINITY, 0, vocab};
    for (int i = 0; i < in_shared; ++i) raise(room.logits[i][thread_index()], i, mine);
    RWKV_UNROLL
    for (int i = 0; i < kKept; ++i) raise(kept[i], kShared + i, mine);
    for (int i = 0; i < in_shared; ++i) add(room.logits[i][thread_index()], i, mine);
    RWKV_UNROLL
    for (int i = 0; i < kKept; ++i) add(kept[i], kShared + i, mine);
    return mine;
  }
  RWKV_DEVICE void raise(const Floats4& x, int run, RunningSoftmax& mine) const {
    if (place(run) >= vocab) return;
    RWKV_UNROLL
    for (int j = 0; j < kRun; ++j) {
      if (x.x[j] <= mine.largest) continue;
      mine.largest = x.x[j];
      mine.at = place(run) + j;
    }
  }
  RWKV_DEVICE void add(const Floats4& x, int run, RunningSoftmax& mine) const {
    if (place(run) >= vocab) return;
    RWKV_UNROLL
    for (int j = 0; j < kRun; ++j) mine.sum += expf(x.x[j] - mine.largest);
  }

  // The same on every thread.
  RWKV_DEVICE static RunningSoftmax over_block(RunningSoftmax mine, RunningSoftmax* partial) {
    over_warp(mine);
    if (lane_index() == 0) partial[warp_index()] = mine;
    device::sync_block();
    mine = partial[lane_index()];
    over_warp(mine);
    return mine;
  }
  RWKV_DEVICE static void over_warp(RunningSoftmax& mine) {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const auto at = static_cast<uint32_t>(mine.at);
      mine.add({device::warp_xor(mine.largest, mask), device::warp_xor(mine.sum, mask),
                static_cast<int64_t>(device::warp_xor_bits(at, mask))});
    }
  }

  RWKV_DEVICE void write(int64_t r, int run, const Gradient& of, const Floats4& x) const {
    const int64_t c = place(run);
    if (c >= vocab) return;
    float g[kRun];
    RWKV_UNROLL
    for (int j = 0; j < kRun; ++j) {
      g[j] = expf(x.x[j] - of.largest) * of.scale;
      if (c + j == of.target) g[j] -= of.of_target;
      if (c + j == of.top) g[j] += of.of_top;
    }
    store_run(dlogits + r * vocab + c, g);
  }
};
static_assert(HeldCrossEntropy<float>::kWarps == kWarp);

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
  using Held = HeldCrossEntropy<T>;

  static bool holds(const CrossEntropy& op) {
    const int64_t vocab = op.logits.shape[1];
    return !op.dlogits.empty() && vocab % Held::kRun == 0 && vocab >= device::kLeastHeldVocab &&
           vocab <= Held::kMostVocab &&
           device::block_shared_bytes() >= static_cast<int64_t>(sizeof(typename Held::Room));
  }
  static void held(const Stream& stream, const CrossEntropy& op) {
    const int64_t rows = op.logits.shape[0], blocks = device::multiprocessors();
    device::launch(
        stream, {rows < blocks ? rows : blocks, Held::kBlockThreads, sizeof(typename Held::Room)},
        Held{in<float>(op.logits), in<int32_t>(op.targets), in<float>(op.weight),
             out<float>(op.loss), out<int32_t>(op.best), out<T>(op.dlogits), rows,
             op.logits.shape[1], static_cast<float>(op.l2wrap), static_cast<float>(op.grad_scale)});
  }
  static void run(const Stream& stream, const CrossEntropy& op) {
    if (holds(op)) return held(stream, op);
    op.logits.shape[1] % 4 == 0 ? cross_entropy_rows<T, 4>(stream, op)
                                : cross_entropy_rows<T, 1>(stream, op);
  }
};
inline void cross_entropy(const Stream& stream, const CrossEntropy& op) {
  by_type<CrossEntropyOp>(op.dlogits.empty() ? DType::kF32 : op.dlogits.dtype, stream, op);
}

}  // namespace rwkv::cuda
