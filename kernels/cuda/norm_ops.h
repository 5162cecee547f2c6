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

// Which slab and channels a thread has: K channels that follow one another.
template <int K>
struct ColumnLane {
  int64_t slab, c;
  RWKV_DEVICE explicit ColumnLane(int64_t width) {
    const int64_t across = (width / K + kThreads - 1) / kThreads;
    slab = block_index() / across;
    c = (block_index() % across * kThreads + thread_index()) * K;
  }
  static int64_t blocks(int64_t slabs, int64_t width) {
    return slabs * ((width / K + kThreads - 1) / kThreads);
  }
};

// Calls Run<T, K> for channels that can be read in pairs, or not.
template <template <class, int> class Run, class T, class Op>
void by_pairs(int64_t width, const Stream& stream, const Op& op) {
  width % 2 == 0 ? Run<T, 2>::run(stream, op) : Run<T, 1>::run(stream, op);
}

template <class T, int K>
struct NormParameters {
  const T *x, *dout;
  const float *mean, *rstd;
  SlabSums sums;
  Slabs slabs;
  int64_t width;

  RWKV_DEVICE void operator()() const {
    const ColumnLane<K> lane(width);
    if (lane.c >= width) return;
    float sum[2][K] = {};  // weight's, bias's
    const RowRange range = slabs.of_slab(lane.slab);
    for (int64_t r = range.begin; r < range.end; ++r) {
      float d[K], n[K];
      load_run(dout + r * width + lane.c, d);
      load_run(x + r * width + lane.c, n);
      for (int j = 0; j < K; ++j) {
        sum[0][j] += d[j] * ((n[j] - mean[r]) * rstd[r]);
        sum[1][j] += d[j];
      }
    }
    sums.put(lane.slab, lane.c, sum);
  }
};
template <class T, int K>
struct RunNormParameters {
  static void run(const Stream& stream, const LayerNormBackward& op) {
    const int64_t width = op.weight.elements();
    const Slabs slabs(op.leaves, op.x.elements() / width);
    const SlabSums sums(stream, slabs, width, 2);
    device::launch(stream, {ColumnLane<K>::blocks(slabs.count(), width), kThreads, 0},
                   NormParameters<T, K>{in<T>(op.x), in<T>(op.dout), in<float>(op.mean),
                                        in<float>(op.rstd), sums, slabs, width});
    add_slabs<2>(stream, slabs, sums, {PartialSum(op.dweight), PartialSum(op.dbias)});
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
    by_pairs<RunNormParameters, T>(width, stream, op);  // first: dx may be dout
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

template <class T, int K>
struct TokenShiftRun {
  ShiftedRows<T> rows;
  int mixes;
  const float* mix[kMaxMixes];
  T* to[kMaxMixes];

  RWKV_DEVICE void operator()(int64_t run) const {
    const int64_t i = run * K, row = i / rows.width, c = i % rows.width;
    float own[K], difference[K];
    load_run(rows.u + i, own);
    if (rows.starts_at(row) || row % rows.tokens == 0) {
      for (int j = 0; j < K; ++j) difference[j] = rows.before(row, c + j);
    } else {
      load_run(rows.u + i - rows.width, difference);
    }
    for (int j = 0; j < K; ++j) difference[j] -= own[j];
    for (int m = 0; m < mixes; ++m) {
      float x[K];
      load_run(mix[m] + c, x);
      for (int j = 0; j < K; ++j) x[j] = own[j] + difference[j] * x[j];
      store_run(to[m] + i, x);
    }
  }
};
template <class T, int K>
struct RunTokenShift {
  static void run(const Stream& stream, const TokenShiftForward& op) {
    TokenShiftRun<T, K> kernel{
        {in<T>(op.u), in<float>(op.halo), in<int32_t>(op.starts), op.u.shape[1], op.u.shape[2]},
        op.mixes,
        {},
        {}};
    for (int m = 0; m < op.mixes; ++m) {
      kernel.mix[m] = in<float>(op.mix[static_cast<size_t>(m)]);
      kernel.to[m] = out<T>(op.out[static_cast<size_t>(m)]);
    }
    for_each(stream, op.u.elements() / K, kernel);
  }
};
template <class T>
struct TokenShiftForwardOp {
  static void run(const Stream& stream, const TokenShiftForward& op) {
    op.u.shape[2] % 4 == 0 ? RunTokenShift<T, 4>::run(stream, op)
                           : RunTokenShift<T, 1>::run(stream, op);
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

// Rows of a slab in their order, so that each row of each gradient is read once: it gives to itself
// and to the row before it.
template <class T, int K, int kMixes>
struct TokenShiftBack {
  ShiftedRows<T> rows;
  MixGradients<T> gradients;
  const float* from_right;  // nullptr: nothing comes
  int64_t at;
  T* du;
  SlabSums sums;
  Slabs slabs;

  RWKV_DEVICE void operator()() const {
    const ColumnLane<K> lane(rows.width);
    const int64_t width = rows.width, c = lane.c;
    if (c >= width) return;
    float mix[kMixes][K] = {}, d[kMixes][K] = {}, next[kMixes][K] = {}, sum[kMixes][K] = {};
    float u[K] = {}, before[K] = {};
    const RowRange range = slabs.of_slab(lane.slab);
    for (int m = 0; m < kMixes; ++m) load_run(gradients.mix[m] + c, mix[m]);
    if (range.begin < range.end) load_row(range.begin, c, d);
    for (int64_t r = range.begin; r < range.end; ++r) {
      for (int j = 0; j < K; ++j) {
        before[j] = r == range.begin || r % rows.tokens == 0 ? rows.before(r, c + j)
                    : rows.starts_at(r)                      ? 0
                                                             : u[j];
      }
      load_run(rows.u + r * width + c, u);
      const int64_t t = r % rows.tokens;
      const bool goes_on = t + 1 < rows.tokens && !rows.starts_at(r + 1);
      if (r + 1 < slabs.rows) load_row(r + 1, c, next);
      float to[K] = {};
      for (int m = 0; m < kMixes; ++m) {
        for (int j = 0; j < K; ++j) {
          to[j] += d[m][j] * (1 - mix[m][j]);
          sum[m][j] += d[m][j] * (before[j] - u[j]);
        }
      }
      for (int m = 0; m < kMixes; ++m) {
        for (int j = 0; j < K; ++j) {
          if (goes_on) to[j] += next[m][j] * mix[m][j];
          d[m][j] = next[m][j];
        }
      }
      if (from_right != nullptr && t == at) {
        for (int j = 0; j < K; ++j) to[j] += from_right[r / rows.tokens * width + c + j];
      }
      store_run(du + r * width + c, to);
    }
    sums.put(lane.slab, c, sum);
  }

 private:
  RWKV_DEVICE void load_row(int64_t r, int64_t c, float (&d)[kMixes][K]) const {
    for (int m = 0; m < kMixes; ++m) load_run(gradients.dout[m] + r * rows.width + c, d[m]);
  }
};

template <class T, int K, int kMixes>
void shift_back(const Stream& stream, const TokenShiftBackward& op) {
  const int64_t width = op.u.shape[2];
  const Slabs slabs(op.leaves, op.u.shape[0] * op.u.shape[1]);
  const SlabSums sums(stream, slabs, width, kMixes);
  device::launch(stream, {ColumnLane<K>::blocks(slabs.count(), width), kThreads, 0},
                 TokenShiftBack<T, K, kMixes>{{in<T>(op.u), in<float>(op.halo),
                                               in<int32_t>(op.starts), op.u.shape[1], width},
                                              MixGradients<T>(op),
                                              in<float>(op.dhalo_out),
                                              op.at,
                                              out<T>(op.du),
                                              sums,
                                              slabs});
  PartialSum to[kMixes];
  for (int m = 0; m < kMixes; ++m) to[m] = PartialSum(op.dmix[static_cast<size_t>(m)]);
  add_slabs<kMixes>(stream, slabs, sums, to);
}
template <class T, int K>
struct RunShiftBack {
  static void run(const Stream& stream, const TokenShiftBackward& op) {
    if (op.mixes == 1) return shift_back<T, K, 1>(stream, op);
    if (op.mixes == kMaxMixes) return shift_back<T, K, kMaxMixes>(stream, op);
    throw Error("internal: the CUDA kernels shift for 1 or 6 mixes");
  }
};
template <class T>
struct TokenShiftBackwardOp {
  static void run(const Stream& stream, const TokenShiftBackward& op) {
    by_pairs<RunShiftBack, T>(op.u.shape[2], stream, op);
  }
};

}  // namespace rwkv::cuda
