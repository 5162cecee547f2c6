// Activations, casts, the optimizer, the embedding, sums of squares.
#pragma once

#include "kernels/adamw.h"
#include "kernels/cuda/token_sums.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"

namespace rwkv::cuda {

RWKV_DEVICE float activate(Activation kind, float x) {
  if (kind == Activation::kTanh) return tanhf(x);
  if (kind == Activation::kSigmoid) return sigmoid(x);
  return x > 0 ? x * x : 0;
}
RWKV_DEVICE float slope(Activation kind, float x) {
  if (kind == Activation::kReluSquared) return x > 0 ? 2 * x : 0;
  const float y = activate(kind, x);
  return kind == Activation::kTanh ? 1 - y * y : y * (1 - y);
}

template <class T>
struct ActivateElement {
  Activation kind;
  const T* x;
  T* y;
  RWKV_DEVICE void operator()(int64_t i) const { store(y + i, activate(kind, load(x + i))); }
};
template <class T>
struct ActivationForwardOp {
  static void run(const Stream& stream, const ActivationForward& op) {
    for_each(stream, op.x.elements(), ActivateElement<T>{op.kind, in<T>(op.x), out<T>(op.y)});
  }
};

template <class T>
struct ActivateBackElement {
  Activation kind;
  const T *x, *dy;
  T* dx;
  RWKV_DEVICE void operator()(int64_t i) const {
    store(dx + i, load(dy + i) * slope(kind, load(x + i)));
  }
};
template <class T>
struct ActivationBackwardOp {
  static void run(const Stream& stream, const ActivationBackward& op) {
    for_each(stream, op.x.elements(),
             ActivateBackElement<T>{op.kind, in<T>(op.x), in<T>(op.dy), out<T>(op.dx)});
  }
};

template <class From, class To>
struct CastElement {
  const From* from;
  To* to;
  RWKV_DEVICE void operator()(int64_t i) const { store(to + i, load(from + i)); }
};
template <class From>
void cast_from(const Stream& stream, const Cast& op) {
  const int64_t n = op.from.elements();
  if (op.to.dtype == DType::kF32) {
    return for_each(stream, n, CastElement<From, float>{in<From>(op.from), out<float>(op.to)});
  }
  for_each(stream, n, CastElement<From, Half>{in<From>(op.from), out<Half>(op.to)});
}
inline void cast(const Stream& stream, const Cast& op) {
  op.from.dtype == DType::kF32 ? cast_from<float>(stream, op) : cast_from<Half>(stream, op);
}

template <class G>
struct AdamWElement {
  float *p, *m, *v;
  Half* copy;  // nullptr: none is kept
  const G* grad;
  double unit, lr, decay, beta1, beta2, eps, correction1, correction2;

  RWKV_DEVICE void operator()(int64_t i) const {
    const double g = static_cast<double>(grad[i]) * unit;
    const double first = beta1 * m[i] + (1 - beta1) * g;
    const double second = beta2 * v[i] + (1 - beta2) * g * g;
    const double step = first / correction1 / (sqrt(second / correction2) + eps);
    p[i] = static_cast<float>(p[i] * (1 - lr * decay) - lr * step);
    m[i] = static_cast<float>(first);
    v[i] = static_cast<float>(second);
    if (copy != nullptr) store(copy + i, p[i]);
  }
};
template <class G>
void adamw_from(const Stream& stream, const AdamW& op) {
  for_each(
      stream, op.master.elements(),
      AdamWElement<G>{out<float>(op.master), out<float>(op.m), out<float>(op.v),
                      out<Half>(op.compute), in<G>(op.grad), op.grad_unit * op.grad_scale, op.lr,
                      op.decay, op.beta1, op.beta2, op.eps, op.correction1, op.correction2});
}
inline void adamw(const Stream& stream, const AdamW& op) {
  op.grad.dtype == DType::kI64 ? adamw_from<int64_t>(stream, op) : adamw_from<float>(stream, op);
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

// A thread a channel takes the rows in their order.
template <class T>
struct EmbeddingBackColumn {
  const int32_t* tokens;
  const T* dout;
  PartialSum to;
  int64_t rows, width;
  RWKV_DEVICE void operator()(int64_t c) const {
    for (int64_t r = 0; r < rows; ++r) to.add(tokens[r] * width + c, load(dout + r * width + c));
  }
};
template <class T>
struct EmbeddingBackwardOp {
  static void run(const Stream& stream, const EmbeddingBackward& op) {
    const int64_t width = op.dtable.sum.shape[1];
    for_each(stream, width,
             EmbeddingBackColumn<T>{in<int32_t>(op.tokens), in<T>(op.dout), PartialSum(op.dtable),
                                    op.tokens.elements(), width});
  }
};

}  // namespace rwkv::cuda
