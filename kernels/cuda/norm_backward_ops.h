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
  int64_t parts, first;  // first: the row that `partial` begins with

  RWKV_DEVICE void put(int64_t row, int64_t part, float dy, float dy_n) const {
    dy = warp_sum(dy);
    dy_n = warp_sum(dy_n);
    if (thread_index() % kWarp == 0) partial[(row - first) * parts + part] = {{dy, dy_n}};
  }
  // On all threads of a warp.
  RWKV_DEVICE Floats2 of_row(int64_t row) const {
    Floats2 sum{{0, 0}};
    for (int64_t i = thread_index() % kWarp; i < parts; i += kWarp) {
      sum.x[0] += partial[(row - first) * parts + i].x[0];
      sum.x[1] += partial[(row - first) * parts + i].x[1];
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
    Channels p;
    load_run(weight + c, p.by);
    load_run(bias + c, p.plus);
    for (int m = 0; m < kMixes; ++m) load_run(gradients.mix[m] + c, p.mix[m]);
    float sum[kMixes + 2][K] = {}, carry[K] = {};
    ShiftEdges::Place place{};
    if constexpr (kMixes > 0) {
      place = edges.place(range.end);
      if (range.end < slabs.rows)
        carry_left(place, Incoming(*this, range.end, c, 0).sums(p), carry);
    }
    const int64_t first = range.begin;
    NormedRow now = Raw(*this, range.end - 1, c, 0).normed(p);
    // What the next two rows need is on its way while this one is worked on.
    Raw x_next(*this, range.end - 2, c, first - 1), x_later(*this, range.end - 3, c, first - 1);
    Incoming d_next(*this, range.end - 1, c, first), d_later(*this, range.end - 2, c, first);
    for (int64_t r = range.end - 1; r >= range.begin; --r) {
      const NormedRow before = x_next.normed(p);
      const Incoming d = d_next;
      x_next = x_later;
      d_next = d_later;
      x_later = Raw(*this, r - 3, c, first - 1);
      d_later = Incoming(*this, r - 2, c, first);
      float to[K];
      if constexpr (kMixes == 0) {
        unpack(d.d[0], to);
      } else {
        place = edges.ahead_of(place);
        const MixSums of = d.sums(p);
        through_mixes(place, c, of, carry, to);
        add_mix_gradients(place, c, d, now, before, sum);
        carry_left(place, of, carry);
        if (inside) store_run(du + r * width + c, to);
      }
      float dy = 0, dy_n = 0;
      for (int j = 0; j < K; ++j) {
        sum[kMixes][j] += to[j] * now.n[j];
        sum[kMixes + 1][j] += to[j];
        dy += inside ? to[j] * p.by[j] : 0;
        dy_n += inside ? to[j] * p.by[j] * now.n[j] : 0;
      }
      row_sums.put(r, lane.part(), dy, dy_n);
      now = before;
    }
    if (inside) sums.put(lane.slab, c, sum);
  }

 private:
  struct Channels {
    float by[K], plus[K], mix[kKept][K];
  };
  // Normalised, and with weight and bias as it was stored.
  struct NormedRow {
    float n[K] = {}, u[K] = {};
  };
  // Over the mixes of a row: of the gradients, and of what they give to the row before.
  struct MixSums {
    float all[K], left[K];
  };

  // A row as it lies in memory; ahead of `least`, and of the first one, there is none.
  struct Raw {
    Run<T, K> x{};
    float mean = 0, rstd = 0;

    RWKV_DEVICE Raw(const NormBackSums& of, int64_t r, int64_t c, int64_t least) {
      if (r < 0 || r < least) return;
      x = raw_run<K>(of.x + r * of.width + c);
      mean = of.mean[r];
      rstd = of.rstd[r];
    }
    RWKV_DEVICE NormedRow normed(const Channels& p) const {
      NormedRow row;
      unpack(x, row.n);
      for (int j = 0; j < K; ++j) {
        row.n[j] = (row.n[j] - mean) * rstd;
        if constexpr (kMixes > 0) row.u[j] = as_stored<T>(row.n[j] * p.by[j] + p.plus[j]);
      }
      return row;
    }
  };
  struct Incoming {
    Run<T, K> d[kKept] = {};

    RWKV_DEVICE Incoming(const NormBackSums& of, int64_t r, int64_t c, int64_t least) {
      if (r < 0 || r < least) return;
      for (int m = 0; m < kKept; ++m) {
        const T* from = kMixes == 0 ? of.dout : of.gradients.dout[m];
        d[m] = raw_run<K>(from + r * of.width + c);
      }
    }
    RWKV_DEVICE MixSums sums(const Channels& p) const {
      MixSums s{};
      for (int m = 0; m < kMixes; ++m) {
        float own[K];
        unpack(d[m], own);
        for (int j = 0; j < K; ++j) {
          s.all[j] += own[j];
          s.left[j] += own[j] * p.mix[m][j];
        }
      }
      return s;
    }
  };

  // What a row gives to the one before it.
  RWKV_DEVICE void carry_left(const ShiftEdges::Place& place, const MixSums& of,
                              float (&carry)[K]) const {
    const bool cut = edges.is_edge(place);
    for (int j = 0; j < K; ++j) carry[j] = cut ? 0 : of.left[j];
  }

  RWKV_DEVICE void through_mixes(const ShiftEdges::Place& place, int64_t c, const MixSums& of,
                                 const float (&carry)[K], float (&to)[K]) const {
    const bool handed = from_right != nullptr && place.token == at;
    for (int j = 0; j < K; ++j) {
      to[j] = of.all[j] - of.left[j] + carry[j];
      if (handed) to[j] += from_right[int64_t{place.sequence} * width + c + j];
      to[j] = as_stored<T>(to[j]);
    }
  }

  RWKV_DEVICE void add_mix_gradients(const ShiftEdges::Place& place, int64_t c, const Incoming& d,
                                     const NormedRow& now, const NormedRow& before,
                                     float (&sum)[kMixes + 2][K]) const {
    float difference[K];
    for (int j = 0; j < K; ++j) difference[j] = before.u[j];
    if (edges.is_edge(place)) {
      for (int j = 0; j < K; ++j) difference[j] = edges.before(place, c + j);
    }
    for (int j = 0; j < K; ++j) difference[j] -= now.u[j];
    for (int m = 0; m < kMixes; ++m) {
      float own[K];
      unpack(d.d[m], own);
      for (int j = 0; j < K; ++j) sum[m][j] += own[j] * difference[j];
    }
  }
};

// A block a row, from the one on that the sums begin with.
template <class T, int K>
struct NormBackRows {
  const T *x, *dout, *residual;
  const float *weight, *mean, *rstd;
  RowSums row_sums;
  T* dx;
  int64_t width;

  RWKV_DEVICE void operator()() const {
    const int64_t r = row_sums.first + block_index(), step = device::thread_count() * K;
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
  int64_t rows;
};
template <class T, int K>
struct RunNormBackRows {
  static void run(const Stream& stream, const NormBackRowsOf& op) {
    const int64_t width = op.norm.weight.elements();
    const int64_t threads = (width / K + kWarp - 1) / kWarp * kWarp;
    device::launch(
        stream, {op.rows, static_cast<int>(threads < 512 ? threads : 512), 0},
        NormBackRows<T, K>{in<T>(op.norm.x), in<T>(op.norm.dout), in<T>(op.norm.residual),
                           in<float>(op.norm.weight), in<float>(op.norm.mean),
                           in<float>(op.norm.rstd), op.row_sums, out<T>(op.norm.dx), width});
  }
};

template <class T, int K, int kMixes>
void norm_shift_back(const Stream& stream, const NormShiftBackward& op, const Slabs& slabs) {
  constexpr int kSums = kMixes + 2;
  const LayerNormBackward& norm = op.norm;
  const int64_t width = norm.weight.elements(), parts = ColumnLane<K>::parts(width);
  const RowRange rows = slabs.all_rows();
  const SlabSums sums(stream, slabs, width, kSums,
                      (rows.end - rows.begin) * parts * int64_t{sizeof(Floats2)});
  const RowSums row_sums{reinterpret_cast<Floats2*>(sums.behind(kSums)), parts, rows.begin};
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
  by_octets<RunNormBackRows, T>(width, stream,
                                NormBackRowsOf{norm, row_sums, rows.end - rows.begin});
  PartialSum to[kSums];
  for (int m = 0; m < kMixes; ++m) to[m] = PartialSum(op.shift.dmix[static_cast<size_t>(m)]);
  to[kMixes] = PartialSum(norm.dweight);
  to[kMixes + 1] = PartialSum(norm.dbias);
  add_slabs<kSums>(stream, slabs, sums, to);
}
template <class T, int K>
struct RunNormBack {
  static void run(const Stream& stream, const NormShiftBackward& op) {
    if (op.shift.mixes == 0) return of_mixes<0>(stream, op);
    if (op.shift.mixes == 1) return of_mixes<1>(stream, op);
    if (op.shift.mixes == kMaxMixes) return of_mixes<kMaxMixes>(stream, op);
    throw Error("internal: the CUDA kernels shift for 1 or 6 mixes");
  }

 private:
  template <int kMixes>
  static void of_mixes(const Stream& stream, const NormShiftBackward& op) {
    const int64_t width = op.norm.weight.elements();
    const Slabs all(op.norm.leaves, op.norm.x.elements() / width);
    const int64_t of_rows = all.size * ColumnLane<K>::parts(width) * int64_t{sizeof(Floats2)};
    by_room(stream, all, SlabSums::bytes_a_slab(width, kMixes + 2) + of_rows,
            [&](const Slabs& slabs) { norm_shift_back<T, K, kMixes>(stream, op, slabs); });
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
