// Backward through layer norm, alone or with the token shift that follows it, in two kernels: what
// sums over tokens goes column by column, and leaves what sums over channels as partials of a row;
// then rows are independent.
#pragma once

#include "kernels/cuda/norm_ops.h"
#include "kernels/cuda/token_sums.h"

namespace rwkv::cuda {

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
  // Warps that have channels of a row, and which of them this thread's is.
  static int64_t parts(int64_t width) {
    return (width / K + kThreads - 1) / kThreads * (kThreads / kWarp);
  }
  RWKV_DEVICE int64_t part() const { return c / K / kWarp; }
};

// Calls Run<T, K> for channels that can be read in pairs, or not.
template <template <class, int> class Run, class T, class Op>
void by_pairs(int64_t width, const Stream& stream, const Op& op) {
  width % 2 == 0 ? Run<T, 2>::run(stream, op) : Run<T, 1>::run(stream, op);
}

// The two sums over channels of a row that its gradient needs, of dy = weight times the gradient of
// the norm's output: dy, and dy times the normalised row. In parts, one a warp: (rows, parts).
struct RowSums {
  Floats2* partial;
  int64_t parts;

  RWKV_DEVICE void put(int64_t row, int64_t part, float dy, float dy_n) const {
    dy = warp_sum(dy);
    dy_n = warp_sum(dy_n);
    if (thread_index() % kWarp == 0) partial[row * parts + part] = {{dy, dy_n}};
  }
  // On all threads of a warp.
  RWKV_DEVICE Floats2 of_row(int64_t row) const {
    Floats2 sum{{0, 0}};
    for (int64_t i = thread_index() % kWarp; i < parts; i += kWarp) {
      sum.x[0] += partial[row * parts + i].x[0];
      sum.x[1] += partial[row * parts + i].x[1];
    }
    return {{warp_sum(sum.x[0]), warp_sum(sum.x[1])}};
  }
};

// Rows of a slab from the last to the first, each row of each gradient read once: it gives to
// itself and to the row before it. kMixes: of the shift; 0: none follows, and `dout` is what comes
// in.
template <class T, int K, int kMixes>
struct NormBackSums {
  static constexpr int kKept = kMixes == 0 ? 1 : kMixes;

  const T* x;
  const float *weight, *bias, *mean, *rstd;
  const T* dout;
  T* du;
  ShiftEdges edges;
  MixGradients<T> gradients;
  const float* from_right;  // nullptr: nothing comes
  int64_t at;
  SlabSums sums;  // of the mixes, then of weight and bias
  RowSums row_sums;
  Slabs slabs;
  int64_t width;

  RWKV_DEVICE void operator()() const {
    const ColumnLane<K> lane(width);
    const bool inside = lane.c < width;
    const int64_t c = inside ? lane.c : 0;
    const RowRange range = slabs.of_slab(lane.slab);
    float mix[kKept][K] = {}, d[kKept][K] = {}, sum[kMixes + 2][K] = {}, carry[K] = {};
    float by[K] = {}, plus[K] = {}, to[K] = {};
    load_run(weight + c, by);
    load_run(bias + c, plus);
    for (int m = 0; m < kMixes; ++m) load_run(gradients.mix[m] + c, mix[m]);
    ShiftEdges::Place place{};
    if constexpr (kMixes > 0) {
      place = edges.place(range.end);
      if (range.begin < range.end && range.end < slabs.rows) {
        load_gradients(range.end, c, d);
        carry_left(place, d, mix, carry);
      }
    }
    NormedRow now, before;
    if (range.begin < range.end) now = row(range.end - 1, c, by, plus);
    for (int64_t r = range.end - 1; r >= range.begin; --r) {
      if (r > range.begin || (kMixes > 0 && r > 0)) before = row(r - 1, c, by, plus);
      if constexpr (kMixes == 0) {
        load_run(dout + r * width + c, to);
      } else {
        place = edges.ahead_of(place);
        load_gradients(r, c, d);
        through_mixes(place, c, d, mix, carry, now, before, sum, to);
        carry_left(place, d, mix, carry);
        if (inside) store_run(du + r * width + c, to);
      }
      float dy = 0, dy_n = 0;
      for (int j = 0; j < K; ++j) {
        sum[kMixes][j] += to[j] * now.n[j];
        sum[kMixes + 1][j] += to[j];
        dy += inside ? to[j] * by[j] : 0;
        dy_n += inside ? to[j] * by[j] * now.n[j] : 0;
      }
      row_sums.put(r, lane.part(), dy, dy_n);
      now = before;
    }
    if (inside) sums.put(lane.slab, c, sum);
  }

 private:
  // Normalised, and with weight and bias as it was stored.
  struct NormedRow {
    float n[K] = {}, u[K] = {};
  };

  RWKV_DEVICE NormedRow row(int64_t r, int64_t c, const float (&by)[K],
                            const float (&plus)[K]) const {
    NormedRow normed;
    load_run(x + r * width + c, normed.n);
    for (int j = 0; j < K; ++j) {
      normed.n[j] = (normed.n[j] - mean[r]) * rstd[r];
      if constexpr (kMixes > 0) normed.u[j] = as_stored<T>(normed.n[j] * by[j] + plus[j]);
    }
    return normed;
  }

  RWKV_DEVICE void load_gradients(int64_t r, int64_t c, float (&d)[kKept][K]) const {
    for (int m = 0; m < kMixes; ++m) load_run(gradients.dout[m] + r * width + c, d[m]);
  }

  // What a row gives to the one before it.
  RWKV_DEVICE void carry_left(const ShiftEdges::Place& place, const float (&d)[kKept][K],
                              const float (&mix)[kKept][K], float (&carry)[K]) const {
    const bool cut = edges.is_edge(place);
    for (int j = 0; j < K; ++j) {
      float sum = 0;
      for (int m = 0; m < kMixes; ++m) sum += d[m][j] * mix[m][j];
      carry[j] = cut ? 0 : sum;
    }
  }

  RWKV_DEVICE void through_mixes(const ShiftEdges::Place& place, int64_t c,
                                 const float (&d)[kKept][K], const float (&mix)[kKept][K],
                                 const float (&carry)[K], const NormedRow& now,
                                 const NormedRow& before, float (&sum)[kMixes + 2][K],
                                 float (&to)[K]) const {
    float left[K];
    for (int j = 0; j < K; ++j) left[j] = before.u[j];
    if (edges.is_edge(place)) {
      for (int j = 0; j < K; ++j) left[j] = edges.before(place, c + j);
    }
    const bool handed = from_right != nullptr && place.token == at;
    for (int j = 0; j < K; ++j) {
      to[j] = 0;
      for (int m = 0; m < kMixes; ++m) {
        to[j] += d[m][j] * (1 - mix[m][j]);
        sum[m][j] += d[m][j] * (left[j] - now.u[j]);
      }
      to[j] += carry[j];
      if (handed) to[j] += from_right[int64_t{place.sequence} * width + c + j];
      to[j] = as_stored<T>(to[j]);
    }
  }
};

// A block a row.
template <class T, int K>
struct NormBackRows {
  const T *x, *dout, *residual;
  const float *weight, *mean, *rstd;
  RowSums row_sums;
  T* dx;
  int64_t width;

  RWKV_DEVICE void operator()() const {
    const int64_t r = block_index(), step = device::thread_count() * K;
    const Floats2 sums = row_sums.of_row(r);
    const float mu = mean[r], scale = rstd[r], inverse = 1.0f / static_cast<float>(width);
    const float mean_dy = sums.x[0] * inverse, mean_dy_n = sums.x[1] * inverse;
    for (int64_t c = thread_index() * K; c < width; c += step) {
      float own[K], d[K], by[K], past[K] = {};
      load_run(x + r * width + c, own);
      load_run(dout + r * width + c, d);
      load_run(weight + c, by);
      if (residual != nullptr) load_run(residual + r * width + c, past);
      for (int j = 0; j < K; ++j) {
        const float n = (own[j] - mu) * scale;
        past[j] += scale * (d[j] * by[j] - mean_dy - n * mean_dy_n);
      }
      store_run(dx + r * width + c, past);
    }
  }
};
struct NormBackRowsOf {
  const LayerNormBackward& norm;
  RowSums row_sums;
};
template <class T, int K>
struct RunNormBackRows {
  static void run(const Stream& stream, const NormBackRowsOf& op) {
    const int64_t width = op.norm.weight.elements(), rows = op.norm.x.elements() / width;
    const int64_t threads = (width / K + kWarp - 1) / kWarp * kWarp;
    device::launch(
        stream, {rows, static_cast<int>(threads < 512 ? threads : 512), 0},
        NormBackRows<T, K>{in<T>(op.norm.x), in<T>(op.norm.dout), in<T>(op.norm.residual),
                           in<float>(op.norm.weight), in<float>(op.norm.mean),
                           in<float>(op.norm.rstd), op.row_sums, out<T>(op.norm.dx), width});
  }
};

template <class T, int K, int kMixes>
void norm_shift_back(const Stream& stream, const NormShiftBackward& op) {
  constexpr int kSums = kMixes + 2;
  const LayerNormBackward& norm = op.norm;
  const int64_t width = norm.weight.elements(), rows = norm.x.elements() / width;
  const Slabs slabs(norm.leaves, rows);
  const int64_t parts = ColumnLane<K>::parts(width);
  const SlabSums sums(stream, slabs, width, kSums, rows * parts * int64_t{sizeof(Floats2)});
  const RowSums row_sums{reinterpret_cast<Floats2*>(sums.behind(kSums)), parts};
  NormBackSums<T, K, kMixes> kernel{in<T>(norm.x),
                                    in<float>(norm.weight),
                                    in<float>(norm.bias),
                                    in<float>(norm.mean),
                                    in<float>(norm.rstd),
                                    in<T>(norm.dout),
                                    out<T>(op.shift.du),
                                    {},
                                    {},
                                    in<float>(op.shift.dhalo_out),
                                    op.shift.at,
                                    sums,
                                    row_sums,
                                    slabs,
                                    width};
  if constexpr (kMixes > 0) {
    kernel.edges = ShiftEdges(op.shift);
    kernel.gradients = MixGradients<T>(op.shift);
  }
  device::launch(stream, {ColumnLane<K>::blocks(slabs.count(), width), kThreads, 0}, kernel);
  by_octets<RunNormBackRows, T>(width, stream, NormBackRowsOf{norm, row_sums});
  PartialSum to[kSums];
  for (int m = 0; m < kMixes; ++m) to[m] = PartialSum(op.shift.dmix[static_cast<size_t>(m)]);
  to[kMixes] = PartialSum(norm.dweight);
  to[kMixes + 1] = PartialSum(norm.dbias);
  add_slabs<kSums>(stream, slabs, sums, to);
}
template <class T, int K>
struct RunNormBack {
  static void run(const Stream& stream, const NormShiftBackward& op) {
    if (op.shift.mixes == 0) return norm_shift_back<T, K, 0>(stream, op);
    if (op.shift.mixes == 1) return norm_shift_back<T, K, 1>(stream, op);
    if (op.shift.mixes == kMaxMixes) return norm_shift_back<T, K, kMaxMixes>(stream, op);
    throw Error("internal: the CUDA kernels shift for 1 or 6 mixes");
  }
};
template <class T>
struct NormShiftBackwardOp {
  static void run(const Stream& stream, const NormShiftBackward& op) {
    by_pairs<RunNormBack, T>(op.norm.weight.elements(), stream, op);
  }
};
template <class T>
struct LayerNormBackwardOp {
  static void run(const Stream& stream, const LayerNormBackward& op) {
    NormShiftBackwardOp<T>::run(stream, {op, {}});
  }
};

}  // namespace rwkv::cuda
