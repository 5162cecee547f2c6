// AdamW over many tensors in one launch.
#pragma once

#include <algorithm>

#include "kernels/adamw.h"
#include "kernels/cuda/device.h"

namespace rwkv::cuda {

RWKV_DEVICE float root(float x) { return sqrtf(x); }
RWKV_DEVICE double root(double x) { return sqrt(x); }

// G: of gradients; S: float where they are, double for fixed point; C: of copies.
template <class G, class S, class C>
struct AdamWKernel {
  static constexpr int kMost = 40;         // tensors of a launch: arguments have 4 KB
  static constexpr int64_t kPiece = 4096;  // elements of a block
  static constexpr int kRun = 4;

  struct Piece {
    float *p, *m, *v;
    C* copy;  // nullptr: none is kept
    const G* grad;
    int64_t count, first_block;
    S unit, keep, lr;  // keep: 1 - lr decay
    bool in_runs;
  };
  Piece pieces[kMost];
  int tensors;
  S beta1, beta2, eps, scale1, scale2;  // 1 / corrections

  RWKV_DEVICE void operator()() const {
    int mine = 0;
    while (mine + 1 < tensors && pieces[mine + 1].first_block <= block_index()) ++mine;
    const Piece& piece = pieces[mine];
    const int64_t begin = (block_index() - piece.first_block) * kPiece;
    const int64_t end = begin + kPiece < piece.count ? begin + kPiece : piece.count;
    piece.in_runs ? update<kRun>(piece, begin, end) : update<1>(piece, begin, end);
  }

 private:
  template <int K>
  RWKV_DEVICE void update(const Piece& piece, int64_t begin, int64_t end) const {
    const int64_t step = device::thread_count() * K;
    for (int64_t i = begin + thread_index() * K; i < end; i += step) {
      const Run<G, K> gradients = *reinterpret_cast<const Run<G, K>*>(piece.grad + i);
      float p[K], m[K], v[K];
      load_run(piece.p + i, p);
      load_run(piece.m + i, m);
      load_run(piece.v + i, v);
      for (int j = 0; j < K; ++j) {
        const S g = static_cast<S>(gradients.element[j]) * piece.unit;
        const S first = beta1 * m[j] + (1 - beta1) * g;
        const S second = beta2 * v[j] + (1 - beta2) * g * g;
        const S by = first * scale1 / (root(second * scale2) + eps);
        p[j] = static_cast<float>(p[j] * piece.keep - piece.lr * by);
        m[j] = static_cast<float>(first);
        v[j] = static_cast<float>(second);
      }
      store_run(piece.p + i, p);
      store_run(piece.m + i, m);
      store_run(piece.v + i, v);
      if (piece.copy != nullptr) store_run(piece.copy + i, p);
    }
  }
};

// The pieces of a shard may begin anywhere.
inline bool in_whole_runs(const AdamWTensor& t, int64_t run) {
  const auto fits = [&](const void* p, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(run * bytes) == 0;
  };
  return t.master.elements() % run == 0 && fits(t.master.data, 4) && fits(t.m.data, 4) &&
         fits(t.v.data, 4) && fits(t.grad.data, bytes_of(t.grad.dtype)) && fits(t.compute.data, 2);
}

template <class G, class S, class C>
void adamw_by(const Stream& stream, const AdamW& op) {
  using Kernel = AdamWKernel<G, S, C>;
  static_assert(sizeof(Kernel) <= 4096);
  const auto number = [](double x) { return static_cast<S>(x); };
  for (size_t first = 0; first < op.tensors.size(); first += Kernel::kMost) {
    const auto group =
        op.tensors.subspan(first, std::min<size_t>(Kernel::kMost, op.tensors.size() - first));
    Kernel kernel{{},
                  static_cast<int>(group.size()),
                  number(op.beta1),
                  number(op.beta2),
                  number(op.eps),
                  number(1 / op.correction1),
                  number(1 / op.correction2)};
    int64_t blocks = 0;
    for (size_t i = 0; i < group.size(); ++i) {
      const AdamWTensor& t = group[i];
      const int64_t count = t.master.elements();
      kernel.pieces[i] = {out<float>(t.master),
                          out<float>(t.m),
                          out<float>(t.v),
                          out<C>(t.compute),
                          in<G>(t.grad),
                          count,
                          blocks,
                          number(t.grad_unit * op.grad_scale),
                          number(1 - t.lr * t.decay),
                          number(t.lr),
                          in_whole_runs(t, Kernel::kRun)};
      blocks += (count + Kernel::kPiece - 1) / Kernel::kPiece;
    }
    device::launch(stream, {blocks, 2 * kThreads, 0}, kernel);
  }
}
template <class C>
struct AdamWOp {
  static void run(const Stream& stream, const AdamW& op) {
    op.tensors.front().grad.dtype == DType::kI64 ? adamw_by<int64_t, double, C>(stream, op)
                                                 : adamw_by<float, float, C>(stream, op);
  }
};
inline void adamw(const Stream& stream, const AdamW& op) {
  if (op.tensors.empty()) return;
  DType copies = DType::kF32;
  for (const AdamWTensor& t : op.tensors) {
    if (!t.compute.empty()) copies = t.compute.dtype;
  }
  by_type<AdamWOp>(copies, stream, op);
}

}  // namespace rwkv::cuda
