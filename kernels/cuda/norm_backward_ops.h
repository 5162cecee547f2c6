// Backward through layer norm, alone or with the token shift that follows it. Where a block's
// threads have registers for a row it is one kernel; else two: what sums over tokens goes column by
// column, and leaves what sums over channels as partials of a row, then rows are independent.
#pragma once

#include "kernels/cuda/norm_backward_rows.h"

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

// Rows of a slab, and the sums of each for its own gradient.
template <class T, int K, int kMixes>
struct NormBackSums {
  using Input = NormBackInput<T, K, kMixes>;

  Input input;
  T* du;
  SlabSums sums;
  RowSums row_sums;
  Slabs slabs;

  RWKV_DEVICE void operator()() const {
    const ColumnLane<K> lane(input.width);
    const bool inside = lane.c < input.width;
    const int64_t c = inside ? lane.c : 0;
    const typename Input::Channels p(input, c);
    float sum[Input::kSums][K] = {};
    input.template walk<2>(
        slabs.of_slab(lane.slab), c, p, sum, [](int64_t) { return 0; },
        [&](int64_t r, int64_t i, int, const float(&to)[K], const typename Input::NormedRow& now) {
          if (kMixes > 0 && inside) store_run(du + i, to);
          float dy = 0, dy_n = 0;
          for (int j = 0; j < K; ++j) {
            dy += inside ? to[j] * p.weight[j] : 0;
            dy_n += inside ? to[j] * p.weight[j] * now.n[j] : 0;
          }
          row_sums.put(r, lane.part(), dy, dy_n);
        });
    if (inside) sums.put(lane.slab, c, sum);
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

// Two sums over a block with one sync: two rooms for each warp's take turns. Every thread must
// come.
struct BlockPairSums {
  static constexpr int64_t kBytes = 2 * kWarp * int64_t{sizeof(Floats2)};

  Floats2* room;
  int pairs;  // of warps, which are read two at a time
  int turn = 0;

  RWKV_DEVICE explicit BlockPairSums(std::byte* bytes)
      : room(reinterpret_cast<Floats2*>(bytes)), pairs((device::thread_count() / kWarp + 1) / 2) {
    // An odd number's last one has nobody beside it.
    for (int i = thread_index(); i < 2 * kWarp; i += device::thread_count()) room[i] = {{0, 0}};
    device::sync_block();
  }
  RWKV_DEVICE Floats2 operator()(Floats2 own) {
    for (float& x : own.x) x = warp_sum(x);
    Floats2* of_warps = room + turn * kWarp;
    turn = 1 - turn;
    if (lane_index() == 0) of_warps[warp_index()] = own;
    device::sync_block();
    Floats2 sum{{0, 0}};
    for (int i = 0; i < pairs; ++i) {
      float x[4];
      load_run(of_warps[2 * i].x, x);
      sum.x[0] += x[0] + x[2];
      sum.x[1] += x[1] + x[3];
    }
    return sum;
  }
};

// A block has a slab's rows whole: what their own gradients need is summed up on the spot, and the
// gradient of the norm's output is never written. dx may be `residual`, and without mixes dout.
template <class T, int kMixes>
struct NormBackWhole {
  static constexpr int K = 4;
  static constexpr int kMostThreads = 512;  // of 128 registers
  static constexpr int64_t kWidest = K * kMostThreads;
  // Rows, of which a multiprocessor needs some 20 to 30 KB on their way.
  static constexpr int kAhead = kMixes == kMaxMixes ? 1 : kMixes == 1 ? 2 : 3;
  using Input = NormBackInput<T, K, kMixes>;

  Input input;
  const T* residual;
  T* dx;
  SlabSums sums;
  Slabs slabs;

  RWKV_DEVICE void operator()() const {
    BlockPairSums of_row(device::shared_memory());
    const int64_t width = input.width, slab = block_index();
    const bool inside = thread_index() * K < width;
    const int64_t c = inside ? thread_index() * K : 0;
    const float inverse = 1.0f / static_cast<float>(width);
    const RowRange range = slabs.of_slab(slab);
    const typename Input::Channels p(input, c);
    float sum[Input::kSums][K] = {};
    input.template walk<kAhead>(
        range, c, p, sum,
        [&](int64_t i) { return residual == nullptr ? Run<T, K>{} : raw_run<K>(residual + i); },
        [&](int64_t, int64_t i, const Run<T, K>& past, const float(&to)[K],
            const typename Input::NormedRow& now) {
          float dy[K], to_x[K];
          Floats2 all{{0, 0}};
          for (int j = 0; j < K; ++j) {
            dy[j] = inside ? to[j] * p.weight[j] : 0;
            all.x[0] += dy[j];
            all.x[1] += dy[j] * now.n[j];
          }
          all = of_row(all);
          unpack(past, to_x);
          for (int j = 0; j < K; ++j) {
            const float mean_dy = all.x[0] * inverse, mean_dy_n = all.x[1] * inverse;
            to_x[j] += now.rstd * (dy[j] - mean_dy - now.n[j] * mean_dy_n);
          }
          if (inside) store_run(dx + i, to_x);
        });
    if (inside) sums.put(slab, c, sum);
  }
};

template <class T, int K, int kMixes>
SlabSums norm_shift_back_in_two(const Stream& stream, const NormShiftBackward& op,
                                const Slabs& slabs) {
  const int64_t width = op.norm.weight.elements(), parts = ColumnLane<K>::parts(width);
  const RowRange rows = slabs.all_rows();
  constexpr int kSums = NormBackInput<T, K, kMixes>::kSums;
  const SlabSums sums(stream, slabs, width, kSums,
                      (rows.end - rows.begin) * parts * int64_t{sizeof(Floats2)});
  const RowSums row_sums{reinterpret_cast<Floats2*>(sums.behind(kSums)), parts, rows.begin};
  device::launch(stream, {ColumnLane<K>::blocks(slabs.count(), width), kThreads, 0},
                 NormBackSums<T, K, kMixes>{NormBackInput<T, K, kMixes>(op), out<T>(op.shift.du),
                                            sums, row_sums, slabs});
  by_octets<RunNormBackRows, T>(width, stream,
                                NormBackRowsOf{op.norm, row_sums, rows.end - rows.begin});
  return sums;
}

template <class T, int kMixes>
SlabSums norm_shift_back_whole(const Stream& stream, const NormShiftBackward& op,
                               const Slabs& slabs) {
  using Kernel = NormBackWhole<T, kMixes>;
  const int64_t width = op.norm.weight.elements();
  const int64_t threads = (width / Kernel::K + kWarp - 1) / kWarp * kWarp;
  const SlabSums sums(stream, slabs, width, Kernel::Input::kSums);
  device::launch(
      stream, {slabs.count(), static_cast<int>(threads), BlockPairSums::kBytes},
      Kernel{typename Kernel::Input(op), in<T>(op.norm.residual), out<T>(op.norm.dx), sums, slabs});
  return sums;
}

// Rows whole for bf16 alone: others take more registers.
template <class T, int K, int kMixes>
SlabSums sums_and_rows(const Stream& stream, const NormShiftBackward& op, const Slabs& slabs) {
  if constexpr (std::is_same_v<T, Bf16>) {
    using Whole = NormBackWhole<T, kMixes>;
    const int64_t width = op.norm.weight.elements();
    if (width % Whole::K == 0 && width <= Whole::kWidest) {
      return norm_shift_back_whole<T, kMixes>(stream, op, slabs);
    }
  }
  return norm_shift_back_in_two<T, K, kMixes>(stream, op, slabs);
}

template <class T, int K, int kMixes>
void norm_shift_back(const Stream& stream, const NormShiftBackward& op, const Slabs& slabs) {
  constexpr int kSums = NormBackInput<T, K, kMixes>::kSums;
  const SlabSums sums = sums_and_rows<T, K, kMixes>(stream, op, slabs);
  PartialSum to[kSums];
  for (int m = 0; m < kMixes; ++m) to[m] = PartialSum(op.shift.dmix[static_cast<size_t>(m)]);
  to[kMixes] = PartialSum(op.norm.dweight);
  to[kMixes + 1] = PartialSum(op.norm.dbias);
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
