// Activations, casts, sums, embedding, AdamW: one pass over memory each.
#pragma once

#include <cmath>

#include "kernels/adamw.h"
#include "kernels/cpu/isa/token_sum.h"
#include "kernels/cpu/isa/vector.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"

namespace rwkv::cpu::RWKV_ISA {

inline constexpr int64_t kElementBlock = 16384;

template <class T>
void activation_forward(const Stream& stream, const ActivationForward& op) {
  const T* x = op.x.as<T>();
  T* y = op.y.as<T>();
  for_blocks(stream, op.x.elements(), kElementBlock, [=](int64_t begin, int64_t end) {
    switch (op.kind) {
      case Activation::kTanh:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) store(y[i], tanh_fast(load(x[i])));
        break;
      case Activation::kSigmoid:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) store(y[i], sigmoid(load(x[i])));
        break;
      case Activation::kReluSquared:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
          const float v = load(x[i]);
          store(y[i], v > 0 ? v * v : 0.0f);
        }
        break;
    }
  });
}

template <class T>
void activation_backward(const Stream& stream, const ActivationBackward& op) {
  const T *x = op.x.as<T>(), *dy = op.dy.as<T>();
  T* dx = op.dx.as<T>();
  for_blocks(stream, op.x.elements(), kElementBlock, [=](int64_t begin, int64_t end) {
    switch (op.kind) {
      case Activation::kTanh:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
          const float y = tanh_fast(load(x[i]));
          store(dx[i], load(dy[i]) * (1.0f - y * y));
        }
        break;
      case Activation::kSigmoid:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
          const float y = sigmoid(load(x[i]));
          store(dx[i], load(dy[i]) * y * (1.0f - y));
        }
        break;
      case Activation::kReluSquared:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
          const float v = load(x[i]), slope = v > 0 ? 2.0f * std::sqrt(v) : 0.0f;
          store(dx[i], slope * load(dy[i]));
        }
        break;
    }
  });
}

template <class From, class To>
void cast_as(const Stream& stream, const Cast& op) {
  const From* from = op.from.as<From>();
  To* to = op.to.as<To>();
  for_blocks(stream, op.from.elements(), kElementBlock, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) store(to[i], load(from[i]));
  });
}

inline void cast(const Stream& stream, const Cast& op) {
  const bool from16 = op.from.dtype == DType::kBF16, to16 = op.to.dtype == DType::kBF16;
  if (from16 && to16) return cast_as<bf16, bf16>(stream, op);
  if (from16) return cast_as<bf16, float>(stream, op);
  if (to16) return cast_as<float, bf16>(stream, op);
  cast_as<float, float>(stream, op);
}

// Blocks of a fixed size are added up in double, so that neither threads nor the length of the
// vector registers change more than the last bits of a block.
template <class T>
void sum_squares_of(const SumSquares& op) {
  const T* x = op.x.as<T>();
  double total = 0;
  const int64_t count = op.x.elements();
  for (int64_t begin = 0; begin < count; begin += kElementBlock) {
    const int64_t end = begin + kElementBlock < count ? begin + kElementBlock : count;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const double value = static_cast<double>(x[i]) * op.unit;
      sum += value * value;
    }
    total += sum;
  }
  op.result.as<double>()[0] = total;
}

inline void sum_squares(const Stream&, const SumSquares& op) {
  op.x.dtype == DType::kI64 ? sum_squares_of<int64_t>(op) : sum_squares_of<float>(op);
}

template <class T>
void embedding_forward(const Stream& stream, const EmbeddingForward& op) {
  const int64_t width = op.table.shape[1];
  const int32_t* tokens = op.tokens.as<int32_t>();
  const float* table = op.table.as<float>();
  T* out = op.out.as<T>();
  for_blocks(stream, op.tokens.elements(), kRowBlock, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* row = table + tokens[r] * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) store(out[r * width + c], row[c]);
    }
  });
}

template <class T>
void embedding_backward(const Stream& stream, const EmbeddingBackward& op) {
  const int64_t width = op.dtable.sum.shape[1], rows = op.tokens.elements();
  const int32_t* tokens = op.tokens.as<int32_t>();
  const T* dout = op.dout.as<T>();
  for_blocks(stream, width, channels_a_thread(stream, width), [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows; ++r) {
      add_partials(op.dtable, tokens[r] * width + begin, dout + r * width + begin, end - begin);
    }
  });
}

// One pass over the parameter. Its copy of type T, if it has one, receives the new value.
template <class T, class G>
void adamw_as(const Stream& stream, const AdamW& op, const AdamWTensor& t) {
  float *p = t.master.as<float>(), *m = t.m.as<float>(), *v = t.v.as<float>();
  const G* grad = t.grad.as<G>();
  T* compute = t.compute.as<T>();
  const double unit = t.grad_unit;
  const auto scale = static_cast<float>(op.grad_scale);
  const auto beta1 = static_cast<float>(op.beta1), beta2 = static_cast<float>(op.beta2);
  const auto rest1 = static_cast<float>(1 - op.beta1), rest2 = static_cast<float>(1 - op.beta2);
  const auto keep = static_cast<float>(1 - t.lr * t.decay);
  const auto rate = static_cast<float>(t.lr / op.correction1);
  const auto inverse2 = static_cast<float>(1 / op.correction2), eps = static_cast<float>(op.eps);
  for_blocks(stream, t.master.elements(), kElementBlock, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      float g;
      if constexpr (std::is_same_v<G, float>) {
        g = grad[i] * scale;
      } else {
        g = static_cast<float>(static_cast<double>(grad[i]) * unit) * scale;
      }
      const float m_new = beta1 * m[i] + rest1 * g;
      const float v_new = beta2 * v[i] + rest2 * g * g;
      const float p_new = p[i] * keep - rate * m_new / (std::sqrt(v_new * inverse2) + eps);
      m[i] = m_new;
      v[i] = v_new;
      p[i] = p_new;
    }
    if (compute != nullptr) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) store(compute[i], p[i]);
    }
  });
}

inline void adamw(const Stream& stream, const AdamW& op) {
  for (const AdamWTensor& t : op.tensors) {
    const bool fixed = t.grad.dtype == DType::kI64;
    if (!t.compute.empty() && t.compute.dtype == DType::kBF16) {
      fixed ? adamw_as<bf16, int64_t>(stream, op, t) : adamw_as<bf16, float>(stream, op, t);
    } else {
      fixed ? adamw_as<float, int64_t>(stream, op, t) : adamw_as<float, float>(stream, op, t);
    }
  }
}

}  // namespace rwkv::cpu::RWKV_ISA
