// The recurrence's backward pass, and the table of its sizes.
#pragma once

#include "kernels/cuda/wkv7_ops.h"
#include "kernels/cuda/wkv7_pieces.h"

namespace rwkv::cuda {

// A block takes heads in turn, as many blocks as there is scratch for. Of each chunk of kWkv7Saved
// tokens the states are run again from the saved one into scratch; then tokens from the last to the
// first. Thread n keeps row n of the adjoint for what sums over columns, and column n for what sums
// over rows: both copies take the same steps.
template <class T, int N>
struct Wkv7BackKernel {
  Wkv7Input<T> in;
  const float *saved, *ds_out, *m, *c;
  const T* dy;
  T *dr, *dk, *dv, *da, *db, *dw_raw;
  float *ds_in, *scratch;
  const float *dbonus, *r_k;
  int64_t scratch_stride;

  RWKV_DEVICE void operator()() const {
    const int64_t heads = in.batch * in.heads;
    for (int64_t bh = block_index(); bh < heads; bh += device::block_count()) head(bh);
  }

 private:
  struct Adjoint {
    float row[N], column[N];
  };
  static constexpr int64_t kSquare = N * N;

  RWKV_DEVICE float* states() const { return scratch + block_index() * scratch_stride; }
  // States before each token of a chunk and after the last; then the adjoint at a tile's end.
  RWKV_DEVICE float* state(int64_t i) const { return states() + i * kSquare; }
  RWKV_DEVICE float* at_tile_end() const { return state(kWkv7Saved + 1); }
  RWKV_DEVICE float* folded() const { return state(kWkv7Saved + 2); }

  RWKV_DEVICE void head(int64_t bh) const {
    const int n = thread_index();
    Adjoint adjoint;
    for (int j = 0; j < N; ++j) adjoint.row[j] = adjoint.column[j] = 0;
    for (int64_t tile = in.tiles - 1; tile >= 0; --tile) {
      keep_tile_end(bh, tile, adjoint);
      const int64_t begin = tile * in.tile;
      for (int64_t last = in.tile_end(tile), first = 0; last > begin; last = first) {
        first = begin + (last - 1 - begin) / kWkv7Saved * kWkv7Saved;
        chunk(bh, tile, first, last, adjoint);
      }
      if (m == nullptr || (tile == 0 && ds_in == nullptr)) continue;
      if (tile + 1 == in.tiles && ds_out == nullptr) continue;
      fold_tile(bh, tile, adjoint);
    }
    if (in.handed == 0) add_handed(bh, adjoint);
    if (ds_in == nullptr) return;
    for (int j = 0; j < N; ++j) ds_in[bh * kSquare + n * N + j] = adjoint.row[j];
  }

  RWKV_DEVICE void add_handed(int64_t bh, Adjoint& adjoint) const {
    if (ds_out == nullptr) return;
    const int n = thread_index();
    for (int j = 0; j < N; ++j) {
      adjoint.row[j] += ds_out[bh * kSquare + n * N + j];
      adjoint.column[j] += ds_out[bh * kSquare + j * N + n];
    }
  }

  RWKV_DEVICE void keep_tile_end(int64_t bh, int64_t tile, const Adjoint& adjoint) const {
    const int n = thread_index();
    const bool handed = tile + 1 == in.tiles && ds_out != nullptr;
    float* to = at_tile_end() + n * N;
    for (int j = 0; j < N; ++j) {
      to[j] = adjoint.row[j] + (handed ? ds_out[bh * kSquare + n * N + j] : 0);
    }
  }

  RWKV_DEVICE void fold_tile(int64_t bh, int64_t tile, Adjoint& adjoint) const {
    const int n = thread_index();
    const int64_t entry = in.map_entry(tile, bh, kPadded<N>);
    fold_row<N>(true, at_tile_end() + n * N, m + entry, c + entry + n * N, adjoint.row);
    float* shared_rows = folded();
    for (int j = 0; j < N; ++j) shared_rows[n * N + j] = adjoint.row[j];
    device::sync_block();
    for (int i = 0; i < N; ++i) adjoint.column[i] = shared_rows[i * N + n];
    device::sync_block();
  }

  // Tokens [first, last), from the last to the first.
  RWKV_DEVICE void chunk(int64_t bh, int64_t tile, int64_t first, int64_t last,
                         Adjoint& adjoint) const {
    const TokenVectors<N> x(device::shared_memory());
    run_again(x, bh, tile, first, last);
    for (int64_t t = last - 1; t >= first; --t) {
      if (t + 1 == in.handed) add_handed(bh, adjoint);
      token(x, bh, t, state(t - first), state(t - first + 1), adjoint);
    }
  }

  RWKV_DEVICE void run_again(const TokenVectors<N>& x, int64_t bh, int64_t tile, int64_t first,
                             int64_t last) const {
    const int n = thread_index();
    float row[N];
    device::sync_block();  // others may still read the states of the chunk behind this one
    const float* from = saved + in.saved_place(bh, tile, first) * kPadded<N> + n * N;
    for (int j = 0; j < N; ++j) row[j] = state(0)[n * N + j] = from[j];
    for (int64_t t = first; t < last; ++t) {
      device::sync_block();
      x.load_way(in, in.at(bh, t, N));
      device::sync_block();
      if (in.starts_at(bh, t)) {
        for (int j = 0; j < N; ++j) row[j] = 0;
      }
      step_row<N>(x, x.v[n], row);
      float* to = state(t - first + 1) + n * N;
      for (int j = 0; j < N; ++j) to[j] = row[j];
    }
    device::sync_block();
  }

  // `before` is not what the token saw where a document starts: that was zero.
  RWKV_DEVICE void token(const TokenVectors<N>& x, int64_t bh, int64_t t, const float* before,
                         const float* after, Adjoint& adjoint) const {
    const int64_t at = in.at(bh, t, N);
    const int n = thread_index();
    const bool starts = in.starts_at(bh, t);
    device::sync_block();
    x.load_way(in, at);
    x.r[n] = load(in.r + at + n);
    x.dy[n] = load(dy + at + n);
    device::sync_block();
    float removed = 0, q = 0, sum_v = 0;
    for (int j = 0; j < N; ++j) {
      if (!starts) removed += before[n * N + j] * x.a[j];
      adjoint.row[j] += x.dy[n] * x.r[j];
      q += adjoint.row[j] * x.b[j];
      sum_v += adjoint.row[j] * x.k[j];
    }
    x.removed[n] = removed;
    x.q[n] = q;
    store(dv + at + n, load(dv + at + n) + sum_v);
    device::sync_block();
    columns(x, at, starts, before, after, adjoint.column);
    for (int j = 0; j < N; ++j) {
      adjoint.row[j] = starts ? 0 : adjoint.row[j] * x.w[j] + q * x.a[j];
    }
  }

  RWKV_DEVICE void columns(const TokenVectors<N>& x, int64_t at, bool starts, const float* before,
                           const float* after, float* column) const {
    const int n = thread_index();
    float sum_r = 0, sum_w = 0, sum_k = 0, sum_b = 0, sum_a = 0;
    for (int i = 0; i < N; ++i) {
      const float mine = column[i] + x.dy[i] * x.r[n];
      const float old = starts ? 0 : before[i * N + n];
      sum_r += after[i * N + n] * x.dy[i];
      sum_w += mine * old;
      sum_k += mine * x.v[i];
      sum_b += mine * x.removed[i];
      sum_a += old * x.q[i];
      column[i] = starts ? 0 : mine * x.w[n] + x.q[i] * x.a[n];
    }
    const float gate = sigmoid(in.raw_decay(at, n, N));
    const float along = dbonus == nullptr ? 0 : dbonus[at / N] * r_k[at / N % in.heads * N + n];
    store(dr + at + n, sum_r + along * x.k[n]);
    store(dk + at + n, sum_k + along * x.r[n]);
    store(db + at + n, sum_b);
    store(da + at + n, sum_a);
    store(dw_raw + at + n, -static_cast<float>(kDecayScale) * x.w[n] * gate * (1 - gate) * sum_w);
  }
};

// Calls Run<T, N> for the head size.
template <class T, template <class, int> class Run, class Op>
void by_head_size(int64_t n, const Stream& stream, const Op& op) {
  check_head_size(n);
  if (n == 16) return Run<T, 16>::run(stream, op);
  if (n == 32) return Run<T, 32>::run(stream, op);
  if (n == 64) return Run<T, 64>::run(stream, op);
  Run<T, 128>::run(stream, op);
}

template <class T, int N>
struct RunForward {
  static void run(const Stream& stream, const Wkv7Forward& op) {
    require(op.s_saved.empty() || op.s_saved.dtype == DType::kF32, "states are saved in float");
    const Wkv7Input<T> input(op.in);
    device::launch(
        stream, {input.batch * input.heads, N, TokenVectors<N>::kBytes},
        Wkv7ForwardKernel<T, N>{input, in<float>(op.s_in), in<float>(op.m), in<float>(op.b),
                                out<T>(op.y), out<float>(op.s_out), out<float>(op.s_saved)});
  }
};
template <class T, int N>
struct RunMap {
  static void run(const Stream& stream, const Wkv7Map& op) {
    const Wkv7Input<T> input(op.in);
    const int64_t blocks = (op.end - op.first) * input.batch * input.heads;
    device::launch(stream, {blocks, 2 * N, TokenVectors<N>::kBytes},
                   Wkv7MapKernel<T, N>{input, op.first, out<float>(op.m), out<float>(op.b)});
  }
};
template <class T, int N>
struct RunMapBack {
  static void run(const Stream& stream, const Wkv7MapBackward& op) {
    const Wkv7Input<T> input(op.in);
    const int64_t blocks = (op.end - op.first) * input.batch * input.heads;
    device::launch(stream, {blocks, N, TokenVectors<N>::kBytes},
                   Wkv7MapBackKernel<T, N>{input, in<T>(op.dy), op.first, out<float>(op.c)});
  }
};
template <class T, int N>
struct RunBack {
  static void run(const Stream& stream, const Wkv7Backward& op) {
    const Wkv7Input<T> input(op.in);
    const int64_t heads = input.batch * input.heads, room = op.scratch.shape[0];
    device::launch(stream, {heads < room ? heads : room, N, TokenVectors<N>::kBytes},
                   Wkv7BackKernel<T, N>{input, in<float>(op.s_saved), in<float>(op.ds_out),
                                        in<float>(op.m), in<float>(op.c), in<T>(op.dy),
                                        out<T>(op.dr), out<T>(op.dk), out<T>(op.dv), out<T>(op.da),
                                        out<T>(op.db), out<T>(op.dw_raw), out<float>(op.ds_in),
                                        out<float>(op.scratch), in<float>(op.bonus.gradient),
                                        in<float>(op.bonus.r_k), op.scratch.shape[1]});
  }
};
template <class T, int N>
struct RunFold {
  static void run(const Stream& stream, const Wkv7Fold& op) {
    const int64_t heads = op.out.shape[0] * op.out.shape[1];
    device::launch(stream, {heads, N, 0},
                   Wkv7FoldKernel<N>{in<float>(op.m), in<float>(op.add), in<float>(op.from),
                                     out<float>(op.out), op.first, op.end, heads, op.transposed});
  }
};

// Which instance of the kernels in chunks.
template <class Run>
void by_plainness(const Wkv7Sequence& in, const Run& run) {
  in.starts.empty() && in.overlap == 0 ? run(std::true_type{}) : run(std::false_type{});
}

template <class T>
struct Wkv7ForwardOp {
  static void run(const Stream& stream, const Wkv7Forward& op) {
    if (wkv7_in_chunks(op.in)) {
      return by_plainness(op.in, [&](auto plain) { wkv7_chunk_forward<plain>(stream, op); });
    }
    by_head_size<T, RunForward>(op.in.k.shape[3], stream, op);
  }
};
template <class T>
struct Wkv7MapOp {
  static void run(const Stream& stream, const Wkv7Map& op) {
    if (wkv7_in_chunks(op.in)) {
      return by_plainness(op.in, [&](auto plain) { wkv7_chunk_map<plain>(stream, op); });
    }
    by_head_size<T, RunMap>(op.in.k.shape[3], stream, op);
  }
};
template <class T>
struct Wkv7MapBackwardOp {
  static void run(const Stream& stream, const Wkv7MapBackward& op) {
    if (wkv7_in_chunks(op.in)) {
      return by_plainness(op.in, [&](auto plain) { wkv7_chunk_map_backward<plain>(stream, op); });
    }
    by_head_size<T, RunMapBack>(op.in.k.shape[3], stream, op);
  }
};
template <class T>
struct Wkv7BackwardOp {
  static void run(const Stream& stream, const Wkv7Backward& op) {
    if (wkv7_in_chunks(op.in)) {
      return by_plainness(op.in, [&](auto plain) { wkv7_chunk_backward<plain>(stream, op); });
    }
    by_head_size<T, RunBack>(op.in.k.shape[3], stream, op);
  }
};
inline void wkv7_fold(const Stream& stream, const Wkv7Fold& op) {
  by_head_size<float, RunFold>(op.out.shape[2], stream, op);
}

}  // namespace rwkv::cuda
