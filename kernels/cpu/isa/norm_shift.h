// LayerNorm and token shift. Rows are shared out for what is per token, channels for what is summed
// over tokens: a parameter's gradient is added up in row order whatever the number of threads.
#pragma once

#include <array>
#include <cmath>

#include "kernels/cpu/isa/token_sum.h"
#include "kernels/cpu/isa/vector.h"
#include "kernels/layer_norm.h"

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
  for_blocks(stream, width, channels_a_thread(stream, width), [&](int64_t begin, int64_t end) {
    float dweight[kMostChannels], dbias[kMostChannels];
    for (int64_t r = 0; r < rows;) {
      const size_t bytes = static_cast<size_t>(end - begin) * sizeof(float);
      std::memset(dweight, 0, bytes);
      std::memset(dbias, 0, bytes);
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

}  // namespace rwkv::cpu::RWKV_ISA
