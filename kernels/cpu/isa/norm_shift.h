// LayerNorm and token shift. Rows are shared out for what is per token, channels for what is summed
// over tokens: a parameter's gradient is added up in row order whatever the number of threads.
#pragma once

#include <array>
#include <cmath>

#include "kernels/cpu/isa/token_sum.h"
#include "kernels/cpu/isa/vector.h"
#include "kernels/layer_norm.h"
#include "kernels/token_shift.h"

namespace rwkv::cpu::RWKV_ISA {

template <class T>
void layer_norm_forward(const Stream& stream, const LayerNormForward& op) {
  const int64_t width = op.weight.elements(), rows = op.x.elements() / width;
  const T* x = op.x.as<T>();
  const float *weight = op.weight.as<float>(), *bias = op.bias.as<float>();
  T* out = op.out.as<T>();
  float *means = op.mean.as<float>(), *rstds = op.rstd.as<float>();
  const auto eps = static_cast<float>(op.eps);
  const float inverse = 1.0f / static_cast<float>(width);
  for_blocks(stream, rows, kRowBlock, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = x + r * width;
      float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < width; ++c) sum += load(row[c]);
      const float mean = sum * inverse;
#pragma omp simd reduction(+ : squares)
      for (int64_t c = 0; c < width; ++c) {
        squares += (load(row[c]) - mean) * (load(row[c]) - mean);
      }
      const float rstd = 1.0f / std::sqrt(squares * inverse + eps);
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        store(out[r * width + c], (load(row[c]) - mean) * rstd * weight[c] + bias[c]);
      }
      means[r] = mean;
      rstds[r] = rstd;
    }
  });
}

template <class T>
void layer_norm_backward(const Stream& stream, const LayerNormBackward& op) {
  const int64_t width = op.weight.elements(), rows = op.x.elements() / width;
  const T *x = op.x.as<T>(), *dout = op.dout.as<T>(), *residual = op.residual.as<T>();
  const float *weight = op.weight.as<float>(), *means = op.mean.as<float>();
  const float* rstds = op.rstd.as<float>();
  T* dx = op.dx.as<T>();
  const float inverse = 1.0f / static_cast<float>(width);
  for_blocks(stream, width, kColumnBlock, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows;) {
      float dweight[kColumnBlock] = {}, dbias[kColumnBlock] = {};
      for (const int64_t behind = op.leaves.end(r, rows); r < behind; ++r) {
        const float mean = means[r], rstd = rstds[r];
        const T *row = x + r * width + begin, *g_row = dout + r * width + begin;
#pragma omp simd
        for (int64_t c = 0; c < end - begin; ++c) {
          const float g = load(g_row[c]);
          dweight[c] += g * ((load(row[c]) - mean) * rstd);
          dbias[c] += g;
        }
      }
      add_partials(op.dweight, begin, dweight, end - begin);
      add_partials(op.dbias, begin, dbias, end - begin);
    }
  });
  for_blocks(stream, rows, kRowBlock, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *row = x + r * width, *g = dout + r * width;
      const float mean = means[r], rstd = rstds[r];
      float sum_g = 0, sum_gn = 0;
#pragma omp simd reduction(+ : sum_g, sum_gn)
      for (int64_t c = 0; c < width; ++c) {
        const float d = load(g[c]) * weight[c];
        sum_g += d;
        sum_gn += d * ((load(row[c]) - mean) * rstd);
      }
      const float mean_g = sum_g * inverse, mean_gn = sum_gn * inverse;
      T* to = dx + r * width;
      if (residual == nullptr) {
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) {
          const float n = (load(row[c]) - mean) * rstd;
          store(to[c], rstd * (load(g[c]) * weight[c] - mean_g - n * mean_gn));
        }
      } else {
        const T* bypass = residual + r * width;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) {
          const float n = (load(row[c]) - mean) * rstd;
          store(to[c], load(bypass[c]) + rstd * (load(g[c]) * weight[c] - mean_g - n * mean_gn));
        }
      }
    }
  });
}

template <class T>
void token_shift_forward(const Stream& stream, const TokenShiftForward& op) {
  const int64_t tokens = op.u.shape[1], width = op.u.shape[2], rows = op.u.shape[0] * tokens;
  const T* u = op.u.as<T>();
  const float* halo = op.halo.as<float>();
  for_blocks(stream, rows, kRowBlock, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* now = u + r * width;
      const bool first = r % tokens == 0;
      const float* edge = halo + r / tokens * width;
      for (int m = 0; m < op.mixes; ++m) {
        const auto j = static_cast<size_t>(m);
        const float* mix = op.mix[j].template as<float>();
        T* out = op.out[j].template as<T>() + r * width;
        if (first) {
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) {
            store(out[c], load(now[c]) + (edge[c] - load(now[c])) * mix[c]);
          }
        } else {
          const T* before = now - width;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) {
            store(out[c], load(now[c]) + (load(before[c]) - load(now[c])) * mix[c]);
          }
        }
      }
    }
  });
  float* last = op.halo_out.as<float>();
  if (last == nullptr) return;
  for (int64_t b = 0; b < op.u.shape[0]; ++b) {
    for (int64_t c = 0; c < width; ++c) {
      last[b * width + c] = load(u[((b + 1) * tokens - 1) * width + c]);
    }
  }
}

// Gradients of the mixes: channels [begin, end), all rows in order.
template <class T>
void token_shift_mix_gradients(const TokenShiftBackward& op, int64_t begin, int64_t end) {
  const int64_t tokens = op.u.shape[1], width = op.u.shape[2], rows = op.u.shape[0] * tokens;
  const T* u = op.u.as<T>();
  const float* halo = op.halo.as<float>();
  float difference[kColumnBlock];
  float dmix[kMaxMixes][kColumnBlock] = {};
  int64_t behind = op.leaves.end(0, rows);
  for (int64_t r = 0; r < rows; ++r) {
    const T* now = u + r * width;
    if (r % tokens == 0) {
      const float* edge = halo + r / tokens * width;
      for (int64_t c = begin; c < end; ++c) difference[c - begin] = edge[c] - load(now[c]);
    } else {
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) {
        difference[c - begin] = load(now[c - width]) - load(now[c]);
      }
    }
    for (int m = 0; m < op.mixes; ++m) {
      const auto j = static_cast<size_t>(m);
      const T* g = op.dout[j].template as<T>() + r * width + begin;
#pragma omp simd
      for (int64_t c = 0; c < end - begin; ++c) dmix[m][c] += load(g[c]) * difference[c];
    }
    if (r + 1 < behind) continue;
    for (int m = 0; m < op.mixes; ++m) {
      add_partials(op.dmix[static_cast<size_t>(m)], begin, dmix[m], end - begin);
    }
    std::memset(dmix, 0, sizeof dmix);
    if (behind < rows) behind = op.leaves.end(behind, rows);
  }
}

template <class T>
void token_shift_backward(const Stream& stream, const TokenShiftBackward& op) {
  const int64_t batch = op.u.shape[0], tokens = op.u.shape[1], width = op.u.shape[2];
  const int mixes = op.mixes;
  std::array<const T*, kMaxMixes> g{};
  std::array<const float*, kMaxMixes> mix{};
  for (size_t j = 0; j < static_cast<size_t>(mixes); ++j) {
    g[j] = op.dout[j].template as<T>();
    mix[j] = op.mix[j].template as<float>();
  }
  T* du = op.du.as<T>();
  const float* from_right = op.dhalo_out.as<float>();
  float* dhalo = op.dhalo.as<float>();
  for_blocks(stream, width, kColumnBlock,
             [&](int64_t begin, int64_t end) { token_shift_mix_gradients<T>(op, begin, end); });
  for_blocks(stream, width, kColumnBlock, [=](int64_t begin, int64_t end) {
    float carried[kColumnBlock];
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t c = begin; c < end; ++c) {
        carried[c - begin] = from_right == nullptr ? 0.0f : from_right[b * width + c];
      }
      for (int64_t t = tokens - 1; t >= 0; --t) {
        const int64_t row = (b * tokens + t) * width;
        float own[kColumnBlock], left[kColumnBlock];
        for (int64_t i = 0; i < end - begin; ++i) own[i] = left[i] = 0;
        for (int m = 0; m < mixes; ++m) {
          const auto j = static_cast<size_t>(m);
          const T* gradient = g[j] + row;
          const float* weight = mix[j];
#pragma omp simd
          for (int64_t c = begin; c < end; ++c) {
            const float d = load(gradient[c]);
            own[c - begin] += d * (1.0f - weight[c]);
            left[c - begin] += d * weight[c];
          }
        }
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) {
          store(du[row + c], own[c - begin] + carried[c - begin]);
          carried[c - begin] = left[c - begin];
        }
      }
      if (dhalo != nullptr) {
        for (int64_t c = begin; c < end; ++c) dhalo[b * width + c] = carried[c - begin];
      }
    }
  });
}

}  // namespace rwkv::cpu::RWKV_ISA
