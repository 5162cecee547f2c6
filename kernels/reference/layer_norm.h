#pragma once

#include "core/base/stream.h"
#include "kernels/layer_norm.h"
#include "kernels/reference/scalar.h"
#include "kernels/reference/token_sum.h"

namespace rwkv::reference {

template <class S>
void layer_norm_forward(const Stream&, const LayerNormForward& op) {
  const int64_t width = op.weight.elements(), rows = op.x.elements() / width;
  const S *x = op.x.as<S>(), *weight = op.weight.as<S>(), *bias = op.bias.as<S>();
  S *out = op.out.as<S>(), *means = op.mean.as<S>(), *rstds = op.rstd.as<S>();
  for (int64_t r = 0; r < rows; ++r, x += width, out += width) {
    S mean = 0, var = 0;
    for (int64_t c = 0; c < width; ++c) mean += x[c];
    mean /= S(static_cast<double>(width));
    for (int64_t c = 0; c < width; ++c) var += (x[c] - mean) * (x[c] - mean);
    var /= S(static_cast<double>(width));
    const S rstd = S(1) / std::sqrt(var + S(op.eps));
    for (int64_t c = 0; c < width; ++c) out[c] = (x[c] - mean) * rstd * weight[c] + bias[c];
    means[r] = mean;
    rstds[r] = rstd;
  }
}

// dweight = sum over tokens of dout n, dbias = that of dout. Called before dx is written:
// it may be dout.
template <class S>
void layer_norm_parameters(const LayerNormBackward& op) {
  const int64_t width = op.weight.elements(), rows = op.x.elements() / width;
  const S *x = op.x.as<S>(), *dout = op.dout.as<S>();
  const S *means = op.mean.as<S>(), *rstds = op.rstd.as<S>();
  for (int64_t begin = 0; begin < rows; begin = op.leaves.end(begin, rows)) {
    const int64_t end = op.leaves.end(begin, rows);
    for (int64_t c = 0; c < width; ++c) {
      S weight = 0, bias = 0;
      for (int64_t r = begin; r < end; ++r) {
        weight += dout[r * width + c] * ((x[r * width + c] - means[r]) * rstds[r]);
        bias += dout[r * width + c];
      }
      add_partial(op.dweight, c, weight);
      add_partial(op.dbias, c, bias);
    }
  }
}

// With n = (x - mean) rstd and g = dout weight: dx = rstd (g - mean(g) - n mean(g n)).
template <class S>
void layer_norm_backward(const Stream&, const LayerNormBackward& op) {
  const int64_t width = op.weight.elements(), rows = op.x.elements() / width;
  const S *x = op.x.as<S>(), *weight = op.weight.as<S>(), *dout = op.dout.as<S>();
  const S *means = op.mean.as<S>(), *rstds = op.rstd.as<S>(), *residual = op.residual.as<S>();
  S* dx = op.dx.as<S>();
  layer_norm_parameters<S>(op);
  for (int64_t r = 0; r < rows; ++r) {
    const S mean = means[r], rstd = rstds[r];
    S mean_g = 0, mean_gn = 0;
    for (int64_t c = 0; c < width; ++c) {
      const int64_t i = r * width + c;
      const S n = (x[i] - mean) * rstd;
      mean_g += dout[i] * weight[c];
      mean_gn += dout[i] * weight[c] * n;
    }
    mean_g /= S(static_cast<double>(width));
    mean_gn /= S(static_cast<double>(width));
    for (int64_t c = 0; c < width; ++c) {
      const int64_t i = r * width + c;
      const S n = (x[i] - mean) * rstd;
      const S through = rstd * (dout[i] * weight[c] - mean_g - n * mean_gn);
      dx[i] = residual == nullptr ? through : residual[i] + through;
    }
  }
}

}  // namespace rwkv::reference
