// Layer norm, token shift and its halos.
#pragma once

#include "kernels/cuda/token_sums.h"
#include "kernels/layer_norm.h"
#include "kernels/token_shift.h"

namespace rwkv::cuda {

// A block a row.
template <class T>
struct LayerNormKernel {
  const T* x;
  const float *weight, *bias;
  T* to;
  float *mean, *rstd;
  int64_t width;
  float eps;

  RWKV_DEVICE void operator()() const {
    auto* scratch = reinterpret_cast<float*>(device::shared_memory());
    const int64_t r = block_index(), step = device::thread_count();
    const T* row = x + r * width;
    float sum = 0;
    for (int64_t c = thread_index(); c < width; c += step) sum += load(row + c);
    const float mu = block_sum(sum, scratch) / static_cast<float>(width);
    float squares = 0;
    for (int64_t c = thread_index(); c < width; c += step) {
      const float d = load(row + c) - mu;
      squares += d * d;
    }
    const float var = block_sum(squares, scratch) / static_cast<float>(width);
    const float scale = 1.0f / sqrtf(var + eps);
    for (int64_t c = thread_index(); c < width; c += step) {
      store(to + r * width + c, (load(row + c) - mu) * scale * weight[c] + bias[c]);
    }
    if (thread_index() == 0) {
      mean[r] = mu;
      rstd[r] = scale;
    }
  }
};
template <class T>
struct LayerNormForwardOp {
  static void run(const Stream& stream, const LayerNormForward& op) {
    const int64_t width = op.weight.elements(), rows = op.x.elements() / width;
    device::launch(stream, {rows, kThreads, kWarp * 4},
                   LayerNormKernel<T>{in<T>(op.x), in<float>(op.weight), in<float>(op.bias),
                                      out<T>(op.out), out<float>(op.mean), out<float>(op.rstd),
                                      width, static_cast<float>(op.eps)});
  }
};

// A thread a channel: its sums over the rows of each leaf.
template <class T>
struct NormParameterColumn {
  const T *x, *dout;
  const float *mean, *rstd;
  PartialSum dweight, dbias;
  LeafRows leaves;
  int64_t width;

  RWKV_DEVICE void operator()(int64_t c) const {
    for (int64_t begin = 0; begin < leaves.rows;) {
      const int64_t end = leaves.end(begin);
      float weight = 0, bias = 0;
      for (int64_t r = begin; r < end; ++r) {
        const float d = load(dout + r * width + c);
        weight += d * ((load(x + r * width + c) - mean[r]) * rstd[r]);
        bias += d;
      }
      dweight.add(c, weight);
      dbias.add(c, bias);
      begin = end;
    }
  }
};

template <class T>
struct LayerNormBackKernel {
  const T *x, *dout, *residual;
  const float *weight, *mean, *rstd;
  T* dx;
  int64_t width;

  RWKV_DEVICE void operator()() const {
    auto* scratch = reinterpret_cast<float*>(device::shared_memory());
    const int64_t r = block_index(), at = r * width, step = device::thread_count();
    const float mu = mean[r], scale = rstd[r];
    float along_one = 0, along_n = 0;
    for (int64_t c = thread_index(); c < width; c += step) {
      const float g = load(dout + at + c) * weight[c];
      along_one += g;
      along_n += g * ((load(x + at + c) - mu) * scale);
    }
    const float mean_g = block_sum(along_one, scratch) / static_cast<float>(width);
    const float mean_gn = block_sum(along_n, scratch) / static_cast<float>(width);
    for (int64_t c = thread_index(); c < width; c += step) {
      const float n = (load(x + at + c) - mu) * scale;
      const float through = scale * (load(dout + at + c) * weight[c] - mean_g - n * mean_gn);
      store(dx + at + c, residual == nullptr ? through : load(residual + at + c) + through);
    }
  }
};
template <class T>
struct LayerNormBackwardOp {
  static void run(const Stream& stream, const LayerNormBackward& op) {
    const int64_t width = op.weight.elements(), rows = op.x.elements() / width;
    // Before dx is written: it may be dout.
    for_each(stream, width,
             NormParameterColumn<T>{in<T>(op.x), in<T>(op.dout), in<float>(op.mean),
                                    in<float>(op.rstd), PartialSum(op.dweight),
                                    PartialSum(op.dbias), LeafRows(op.leaves, rows), width});
    device::launch(stream, {rows, kThreads, kWarp * 4},
                   LayerNormBackKernel<T>{in<T>(op.x), in<T>(op.dout), in<T>(op.residual),
                                          in<float>(op.weight), in<float>(op.mean),
                                          in<float>(op.rstd), out<T>(op.dx), width});
  }
};

// Rows of u, and what stands before each.
template <class T>
struct ShiftedRows {
  const T* u;
  const float* halo;
  const int32_t* starts;  // nullptr: no document starts
  int64_t tokens, width;

  RWKV_DEVICE bool starts_at(int64_t row) const { return starts != nullptr && starts[row] != 0; }
  RWKV_DEVICE float before(int64_t row, int64_t c) const {
    if (starts_at(row)) return 0;
    return row % tokens == 0 ? halo[row / tokens * width + c] : load(u + (row - 1) * width + c);
  }
};

template <class T>
struct TokenShiftElement {
  ShiftedRows<T> rows;
  int mixes;
  const float* mix[kMaxMixes];
  T* to[kMaxMixes];

  RWKV_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / rows.width, c = i % rows.width;
    const float own = load(rows.u + i), difference = rows.before(row, c) - own;
    for (int m = 0; m < mixes; ++m) store(to[m] + i, own + difference * mix[m][c]);
  }
};
template <class T>
struct TokenShiftForwardOp {
  static void run(const Stream& stream, const TokenShiftForward& op) {
    TokenShiftElement<T> kernel{
        {in<T>(op.u), in<float>(op.halo), in<int32_t>(op.starts), op.u.shape[1], op.u.shape[2]},
        op.mixes,
        {},
        {}};
    for (int m = 0; m < op.mixes; ++m) {
      kernel.mix[m] = in<float>(op.mix[static_cast<size_t>(m)]);
      kernel.to[m] = out<T>(op.out[static_cast<size_t>(m)]);
    }
    for_each(stream, op.u.elements(), kernel);
  }
};

template <class T>
struct HaloElement {
  const T* u;
  float* to;
  int64_t tokens, width, at;
  RWKV_DEVICE void operator()(int64_t i) const {
    to[i] = at < 0 ? 0.0f : load(u + (i / width * tokens + at) * width + i % width);
  }
};
template <class T>
struct HaloForwardOp {
  static void run(const Stream& stream, const HaloForward& op) {
    for_each(stream, op.out.elements(),
             HaloElement<T>{in<T>(op.u), out<float>(op.out), op.u.shape[1], op.u.shape[2], op.at});
  }
};

// Gradients of the mixes' outputs.
template <class T>
struct MixGradients {
  int mixes;
  const float* mix[kMaxMixes];
  const T* dout[kMaxMixes];

  template <class Op>
  explicit MixGradients(const Op& op) : mixes(op.mixes) {
    for (int m = 0; m < mixes; ++m) {
      mix[m] = in<float>(op.mix[static_cast<size_t>(m)]);
      dout[m] = in<T>(op.dout[static_cast<size_t>(m)]);
    }
  }
  // What element i gives to the row before it.
  RWKV_DEVICE float to_left(int64_t i, int64_t c) const {
    float sum = 0;
    for (int m = 0; m < mixes; ++m) sum += load(dout[m] + i) * mix[m][c];
    return sum;
  }
  RWKV_DEVICE float own(int64_t i, int64_t c) const {
    float sum = 0;
    for (int m = 0; m < mixes; ++m) sum += load(dout[m] + i) * (1 - mix[m][c]);
    return sum;
  }
};

template <class T>
struct HaloBackElement {
  MixGradients<T> gradients;
  const int32_t* starts;
  float* dhalo;
  int64_t tokens, width;
  RWKV_DEVICE void operator()(int64_t i) const {
    const int64_t first = i / width * tokens;
    const bool none = starts != nullptr && starts[first] != 0;
    dhalo[i] = none ? 0 : gradients.to_left(first * width + i % width, i % width);
  }
};
template <class T>
struct HaloBackwardOp {
  static void run(const Stream& stream, const HaloBackward& op) {
    for_each(stream, op.dhalo.elements(),
             HaloBackElement<T>{MixGradients<T>(op), in<int32_t>(op.starts), out<float>(op.dhalo),
                                op.dout[0].shape[1], op.dout[0].shape[2]});
  }
};

template <class T>
struct TokenShiftBackElement {
  ShiftedRows<T> rows;
  MixGradients<T> gradients;
  const float* from_right;  // nullptr: nothing comes
  int64_t at;
  T* du;

  RWKV_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / rows.width, c = i % rows.width, t = row % rows.tokens;
    float sum = gradients.own(i, c);
    if (t + 1 < rows.tokens && !rows.starts_at(row + 1)) {
      sum += gradients.to_left(i + rows.width, c);
    }
    if (from_right != nullptr && t == at) sum += from_right[row / rows.tokens * rows.width + c];
    store(du + i, sum);
  }
};
template <class T>
struct MixColumn {
  ShiftedRows<T> rows;
  const T* dout;
  PartialSum dmix;
  LeafRows leaves;

  RWKV_DEVICE void operator()(int64_t c) const {
    for (int64_t begin = 0; begin < leaves.rows;) {
      const int64_t end = leaves.end(begin);
      float sum = 0;
      for (int64_t r = begin; r < end; ++r) {
        const int64_t i = r * rows.width + c;
        sum += load(dout + i) * (rows.before(r, c) - load(rows.u + i));
      }
      dmix.add(c, sum);
      begin = end;
    }
  }
};
template <class T>
struct TokenShiftBackwardOp {
  static void run(const Stream& stream, const TokenShiftBackward& op) {
    const int64_t width = op.u.shape[2], count = op.u.shape[0] * op.u.shape[1];
    const ShiftedRows<T> rows{in<T>(op.u), in<float>(op.halo), in<int32_t>(op.starts),
                              op.u.shape[1], width};
    for (int m = 0; m < op.mixes; ++m) {
      const auto i = static_cast<size_t>(m);
      for_each(stream, width,
               MixColumn<T>{rows, in<T>(op.dout[i]), PartialSum(op.dmix[i]),
                            LeafRows(op.leaves, count)});
    }
    for_each(stream, op.u.elements(),
             TokenShiftBackElement<T>{rows, MixGradients<T>(op), in<float>(op.dhalo_out), op.at,
                                      out<T>(op.du)});
  }
};

}  // namespace rwkv::cuda
