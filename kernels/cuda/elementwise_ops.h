// Activations, casts, the embedding, sums of squares.
#pragma once

#include "kernels/cuda/token_sums.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"

namespace rwkv::cuda {

RWKV_DEVICE float activate(Activation kind, float x) {
  if (kind == Activation::kTanh) return tanhf(x);
  if (kind == Activation::kSigmoid) return sigmoid(x);
  return x > 0 ? x * x : 0;
}
// From the pre-activation; of the squared one from its square.
RWKV_DEVICE float slope(Activation kind, float x) {
  if (kind == Activation::kReluSquared) return x > 0 ? 2 * sqrtf(x) : 0;
  const float y = activate(kind, x);
  return kind == Activation::kTanh ? 1 - y * y : y * (1 - y);
}

template <class T, int K>
struct ActivateRun {
  Activation kind;
  const T* x;
  T* y;
  RWKV_DEVICE void operator()(int64_t run) const {
    float value[K];
    load_run(x + run * K, value);
    for (int j = 0; j < K; ++j) value[j] = activate(kind, value[j]);
    store_run(y + run * K, value);
  }
};
template <class T>
struct ActivationForwardOp {
  static void run(const Stream& stream, const ActivationForward& op) {
    constexpr int K = kRunOf<T>;
    const int64_t n = op.x.elements();
    if (in_whole_runs(op.x) && in_whole_runs(op.y)) {
      return for_each(stream, n / K, ActivateRun<T, K>{op.kind, in<T>(op.x), out<T>(op.y)});
    }
    for_each(stream, n, ActivateRun<T, 1>{op.kind, in<T>(op.x), out<T>(op.y)});
  }
};

template <class T, int K>
struct ActivateBackRun {
  Activation kind;
  const T *x, *dy;
  T* dx;
  RWKV_DEVICE void operator()(int64_t run) const {
    float value[K], d[K];
    load_run(x + run * K, value);
    load_run(dy + run * K, d);
    for (int j = 0; j < K; ++j) d[j] *= slope(kind, value[j]);
    store_run(dx + run * K, d);
  }
};
template <class T>
struct ActivationBackwardOp {
  static void run(const Stream& stream, const ActivationBackward& op) {
    constexpr int K = kRunOf<T>;
    const int64_t n = op.x.elements();
    if (in_whole_runs(op.x) && in_whole_runs(op.dy) && in_whole_runs(op.dx)) {
      return for_each(stream, n / K,
                      ActivateBackRun<T, K>{op.kind, in<T>(op.x), in<T>(op.dy), out<T>(op.dx)});
    }
    for_each(stream, n, ActivateBackRun<T, 1>{op.kind, in<T>(op.x), in<T>(op.dy), out<T>(op.dx)});
  }
};

template <class From, class To, int K>
struct CastRun {
  const From* from;
  To* to;
  RWKV_DEVICE void operator()(int64_t run) const {
    float x[K];
    load_run(from + run * K, x);
    store_run(to + run * K, x);
  }
};
template <class From, class To>
void cast_run(const Stream& stream, const Cast& op) {
  const int64_t n = op.from.elements();
  if (in_whole_runs(op.from) && in_whole_runs(op.to)) {
    return for_each(stream, n / 4, CastRun<From, To, 4>{in<From>(op.from), out<To>(op.to)});
  }
  for_each(stream, n, CastRun<From, To, 1>{in<From>(op.from), out<To>(op.to)});
}
// One of the types is float, or both are the same.
template <class T>
struct CastOp {
  static void run(const Stream& stream, const Cast& op) {
    if (op.from.dtype == op.to.dtype) return cast_run<T, T>(stream, op);
    op.from.dtype == DType::kF32 ? cast_run<float, T>(stream, op) : cast_run<T, float>(stream, op);
  }
};
inline void cast(const Stream& stream, const Cast& op) {
  by_type<CastOp>(op.from.dtype == DType::kF32 ? op.to.dtype : op.from.dtype, stream, op);
}

// Blocks take pieces of kPiece elements; then one block adds their sums. Trees and strides are
// fixed.
template <class G>
struct SumSquaresKernel {
  static constexpr int kSumThreads = 256;

  const G* x;
  double* result;
  int64_t count, piece;  // elements in all, and of a block
  double unit;

  RWKV_DEVICE void operator()() const {
    auto* partial = reinterpret_cast<double*>(device::shared_memory());
    const int me = thread_index();
    const int64_t begin = block_index() * piece;
    const int64_t end = begin + piece < count ? begin + piece : count;
    double sum = 0;
    for (int64_t i = begin + me; i < end; i += kSumThreads) {
      const double value = static_cast<double>(x[i]) * unit;
      sum += value * value;
    }
    add_up(partial, sum);
    if (me == 0) result[block_index()] = partial[0];
  }

  RWKV_DEVICE static void add_up(double* partial, double sum) {
    const int me = thread_index();
    partial[me] = sum;
    for (int half = kSumThreads / 2; half > 0; half /= 2) {
      device::sync_block();
      if (me < half) partial[me] += partial[me + half];
    }
  }
};
struct AddSquares {
  const double* parts;
  double* result;
  int64_t count;

  RWKV_DEVICE void operator()() const {
    using Sum = SumSquaresKernel<float>;
    auto* partial = reinterpret_cast<double*>(device::shared_memory());
    double sum = 0;
    for (int64_t i = thread_index(); i < count; i += Sum::kSumThreads) sum += parts[i];
    Sum::add_up(partial, sum);
    if (thread_index() == 0) *result = partial[0];
  }
};
template <class G>
void sum_squares_from(const Stream& stream, const SumSquares& op) {
  using Sum = SumSquaresKernel<G>;
  constexpr int64_t kPiece = 16384, kMostBlocks = 4096;
  const int64_t count = op.x.elements();
  int64_t piece = kPiece;
  while ((count + piece - 1) / piece > kMostBlocks) piece *= 2;
  const int64_t blocks = (count + piece - 1) / piece;
  auto* parts = blocks > 1 ? reinterpret_cast<double*>(device::scratch(stream, blocks * 8))
                           : out<double>(op.result);
  device::launch(stream, {blocks, Sum::kSumThreads, Sum::kSumThreads * 8},
                 Sum{in<G>(op.x), parts, count, piece, op.unit});
  if (blocks == 1) return;
  device::launch(stream, {1, Sum::kSumThreads, Sum::kSumThreads * 8},
                 AddSquares{parts, out<double>(op.result), blocks});
}
inline void sum_squares(const Stream& stream, const SumSquares& op) {
  op.x.dtype == DType::kI64 ? sum_squares_from<int64_t>(stream, op)
                            : sum_squares_from<float>(stream, op);
}

template <class T>
struct EmbeddingElement {
  const float* table;
  const int32_t* tokens;
  T* to;
  int64_t width;
  RWKV_DEVICE void operator()(int64_t i) const {
    store(to + i, table[tokens[i / width] * width + i % width]);
  }
};
template <class T>
struct EmbeddingForwardOp {
  static void run(const Stream& stream, const EmbeddingForward& op) {
    for_each(stream, op.out.elements(),
             EmbeddingElement<T>{in<float>(op.table), in<int32_t>(op.tokens), out<T>(op.out),
                                 op.table.shape[1]});
  }
};

// A warp has some tokens of the vocabulary and 32 K channels: it looks through all rows, and adds
// those of its tokens in their order.
template <class T, int K>
struct EmbeddingBack {
  static constexpr int64_t kMostShares = 1024;
  static constexpr int kWarps = kThreads / kWarp, kAhead = 4;

  const int32_t* tokens;
  const T* dout;
  PartialSum to;
  int64_t rows, width, shares, share;  // share: tokens of a warp

  RWKV_DEVICE void operator()() const {
    const int lane = thread_index() % kWarp;
    const int64_t warp = block_index() * kWarps + thread_index() / kWarp;
    const int64_t c = (warp / shares * kWarp + lane) * K;
    const auto low = static_cast<uint32_t>(warp % shares * share);
    if (c - lane * K >= width) return;  // the same for a warp
    for (int64_t first = 0; first < rows; first += kWarp * kAhead) {
      uint32_t found[kAhead];
      for (int j = 0; j < kAhead; ++j) {
        const int64_t own = first + j * kWarp + lane;
        const bool there = own < rows;
        const auto token = static_cast<uint32_t>(there ? tokens[own] : 0);
        found[j] = device::warp_ballot(there && token - low < static_cast<uint32_t>(share));
      }
      for (int j = 0; j < kAhead; ++j) add_rows(first + j * kWarp, found[j], c);
    }
  }

 private:
  RWKV_DEVICE void add_rows(int64_t first, uint32_t found, int64_t c) const {
    for (int64_t r = first; found != 0; found >>= 1, ++r) {
      if ((found & 1u) == 0 || c >= width) continue;
      float d[K];
      load_run(dout + r * width + c, d);
      for (int j = 0; j < K; ++j) to.add(tokens[r] * width + c + j, d[j]);
    }
  }
};
template <class T, int K>
void embedding_back(const Stream& stream, const EmbeddingBackward& op) {
  using Kernel = EmbeddingBack<T, K>;
  const int64_t vocab = op.dtable.sum.shape[0], width = op.dtable.sum.shape[1];
  const int64_t share = (vocab + Kernel::kMostShares - 1) / Kernel::kMostShares;
  const int64_t shares = (vocab + share - 1) / share;
  const int64_t warps = shares * ((width + kWarp * K - 1) / (kWarp * K));
  device::launch(stream, {(warps + Kernel::kWarps - 1) / Kernel::kWarps, kThreads, 0},
                 Kernel{in<int32_t>(op.tokens), in<T>(op.dout), PartialSum(op.dtable),
                        op.tokens.elements(), width, shares, share});
}
template <class T>
struct EmbeddingBackwardOp {
  static void run(const Stream& stream, const EmbeddingBackward& op) {
    op.dtable.sum.shape[1] % 4 == 0 ? embedding_back<T, 4>(stream, op)
                                    : embedding_back<T, 1>(stream, op);
  }
};

}  // namespace rwkv::cuda
