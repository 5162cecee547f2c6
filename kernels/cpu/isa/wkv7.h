// The WKV-7 recurrence and its gradient (formulas: kernels/reference/wkv7.h).
#pragma once

#include "kernels/cpu/isa/wkv7_maps.h"

namespace rwkv::cpu::RWKV_ISA {

template <class T, int Q>
void wkv7_forward_head(const Wkv7Forward& op, int64_t bh) {
  const Wkv7Sizes sizes(op.in);
  const auto n = static_cast<int>(sizes.n);
  const int64_t chunks = wkv7_saved_states(sizes.tokens, sizes.tile);
  v16 state[16 * Q * Q], entering[16 * Q * Q];
  load_state<Q>(op.s_in, bh, n, state);
  float* saved = op.s_saved.as<float>();
  TokenRow<Q> x;
  for (int64_t tile = 0; tile < sizes.tiles; ++tile) {
    const bool folds = !op.m.empty() && (tile + 1 < sizes.tiles || !op.s_out.empty()) &&
                       (tile > 0 || !op.s_in.empty());
    if (folds) copy_state<Q>(n, state, entering);
    const int64_t first = tile * sizes.tile;
    for (int64_t t = first; t < sizes.tile_end(tile); ++t) {
      if (saved != nullptr && (t - first) % kWkv7Saved == 0) {
        copy_state<Q>(n, state, saved + (bh * chunks + sizes.chunk(tile, t)) * n * 16 * Q);
      }
      const int64_t at = sizes.at(bh, t);
      if (sizes.starts(op.in, bh, t)) set_zero<Q>(n, state);
      x.template read<T>(op.in, at, n);
      v16 removed[Q], y[Q];
      apply_state<Q>(n, state, x.a, removed);
      advance<Q, true>(n, state, state, x, removed, y);
      T* out = op.y.as<T>() + at;
      for (int c = 0; c < n; ++c) store(out[c], y[c / 16][c % 16]);
    }
    if (!folds) continue;
    const int64_t entry = tile * sizes.batch * sizes.heads + bh;
    fold<Q, false>(n, entering, map_of<Q>(op.m, entry, n), map_of<Q>(op.b, entry, n), state);
  }
  if (!op.s_out.empty()) from_key_major<Q>(n, state, op.s_out.as<float>() + bh * n * n);
}

// One token backward. dy as vectors; `adjoint` becomes that of the state before the token.
template <int Q>
struct TokenGradient {
  alignas(64) float r[16 * Q], w[16 * Q], k[16 * Q], v[16 * Q], a[16 * Q], b[16 * Q];

  [[gnu::always_inline]] void compute(int n, const TokenRow<Q>& x, const v16 (&dy)[Q],
                                      const v16 (&removed)[Q], const v16* before, const v16* after,
                                      v16* adjoint) {
    v16 value[Q], q_sum[Q], v_sum[Q];
    load_vectors<Q>(x.v, value);
    for (int q = 0; q < Q; ++q) q_sum[q] = v_sum[q] = v16{};
    for (int j = 0; j < n; ++j) {
      v16 sum_r{}, sum_w{}, sum_k{}, sum_b{};
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) {
        const v16 m = adjoint[j * Q + q] + dy[q] * x.r[j];
        adjoint[j * Q + q] = m;
        sum_r += after[j * Q + q] * dy[q];
        sum_w += m * before[j * Q + q];
        sum_k += m * value[q];
        sum_b += m * removed[q];
        q_sum[q] += m * x.b[j];
        v_sum[q] += m * x.k[j];
      }
      r[j] = lane_sum(sum_r);
      w[j] = lane_sum(sum_w);
      k[j] = lane_sum(sum_k);
      b[j] = lane_sum(sum_b);
    }
    std::memcpy(v, v_sum, sizeof v);
    for (int j = 0; j < n; ++j) {
      v16 sum_a{};
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) {
        sum_a += before[j * Q + q] * q_sum[q];
        adjoint[j * Q + q] = adjoint[j * Q + q] * x.w[j] + q_sum[q] * x.a[j];
      }
      a[j] = lane_sum(sum_a);
    }
  }

  template <class T>
  [[gnu::always_inline]] void write(const Wkv7Backward& op, const TokenRow<Q>& x, int64_t at,
                                    int n) const {
    T *dr = op.dr.as<T>() + at, *dk = op.dk.as<T>() + at, *dv = op.dv.as<T>() + at;
    T *da = op.da.as<T>() + at, *db = op.db.as<T>() + at;
    T* dw = op.dw_raw.as<T>() + at;
    float along[16 * Q] = {};  // of the bonus
    if (!op.bonus.gradient.empty()) {
      const float gradient = op.bonus.gradient.as<float>()[at / n];
      const float* r_k = op.bonus.r_k.as<float>() + at / n % op.in.k.shape[2] * n;
      for (int c = 0; c < n; ++c) along[c] = gradient * r_k[c];
    }
#pragma omp simd
    for (int c = 0; c < n; ++c) {
      const float gate = sigmoid(x.w_raw[c]);
      store(dr[c], r[c] + along[c] * x.k[c]);
      store(dk[c], k[c] + along[c] * x.r[c]);
      store(dv[c], load(dv[c]) + v[c]);
      store(da[c], a[c]);
      store(db[c], b[c]);
      store(dw[c], -kDecayScale * x.w[c] * gate * (1.0f - gate) * w[c]);
    }
  }
};

// The scratch of one thread: padded states.
template <int Q>
struct BackwardScratch {
  float* memory;
  int n;

  v16* state(int64_t i) const { return reinterpret_cast<v16*>(memory + i * n * 16 * Q); }
  // 0 ... kWkv7Saved: before each token of a chunk, and after the last.
  v16* adjoint() const { return state(kWkv7Saved + 1); }
  v16* at_tile_end() const { return state(kWkv7Saved + 2); }
  v16* zero() const { return state(kWkv7Saved + 3); }
};

// The gradient of a state that is handed on before the last token joins there.
template <int Q>
[[gnu::always_inline]] inline void add_handed(const Wkv7Backward& op, int64_t bh,
                                              const BackwardScratch<Q>& scratch) {
  if (op.in.overlap == 0 || op.ds_out.empty()) return;
  const int n = scratch.n;
  load_state<Q>(op.ds_out, bh, n, scratch.at_tile_end());
  for (int i = 0; i < n * Q; ++i) scratch.adjoint()[i] += scratch.at_tile_end()[i];
}

// Tokens [first, last) of one chunk, from the last to the first; `saved`: the state before them.
template <class T, int Q>
[[gnu::always_inline]] inline void wkv7_backward_chunk(const Wkv7Backward& op,
                                                       const Wkv7Sizes& sizes, int64_t bh,
                                                       int64_t first, int64_t last,
                                                       const float* saved,
                                                       const BackwardScratch<Q>& scratch) {
  const auto n = static_cast<int>(sizes.n);
  TokenRow<Q> rows[kWkv7Saved];
  v16 removed[kWkv7Saved][Q];
  const v16* before[kWkv7Saved];
  copy_state<Q>(n, saved, scratch.state(0));
  for (int64_t t = first; t < last; ++t) {
    const int64_t i = t - first;
    before[i] = sizes.starts(op.in, bh, t) ? scratch.zero() : scratch.state(i);
    v16 y[Q];
    rows[i].template read<T>(op.in, sizes.at(bh, t), n);
    apply_state<Q>(n, before[i], rows[i].a, removed[i]);
    advance<Q, false>(n, before[i], scratch.state(i + 1), rows[i], removed[i], y);
  }
  for (int64_t t = last - 1; t >= first; --t) {
    const int64_t i = t - first, at = sizes.at(bh, t);
    if (t + 1 == sizes.handed) add_handed<Q>(op, bh, scratch);
    v16 dy[Q];
    read_vectors<T, Q>(op.dy.as<T>() + at, n, dy);
    TokenGradient<Q> gradient;
    gradient.compute(n, rows[i], dy, removed[i], before[i], scratch.state(i + 1),
                     scratch.adjoint());
    gradient.template write<T>(op, rows[i], at, n);
    if (before[i] == scratch.zero()) set_zero<Q>(n, scratch.adjoint());
  }
}

template <class T, int Q>
void wkv7_backward_head(const Wkv7Backward& op, int64_t bh, float* memory) {
  const Wkv7Sizes sizes(op.in);
  const auto n = static_cast<int>(sizes.n);
  const int64_t chunks = wkv7_saved_states(sizes.tokens, sizes.tile);
  const auto* saved = op.s_saved.as<float>();
  const BackwardScratch<Q> scratch{memory, n};
  set_zero<Q>(n, scratch.zero());
  load_state<Q>(op.in.overlap > 0 ? ConstTensor{} : op.ds_out, bh, n, scratch.adjoint());
  for (int64_t tile = sizes.tiles - 1; tile >= 0; --tile) {
    const bool folds = !op.m.empty() && (tile > 0 || !op.ds_in.empty()) &&
                       (tile + 1 < sizes.tiles || !op.ds_out.empty());
    if (folds) copy_state<Q>(n, scratch.adjoint(), scratch.at_tile_end());
    const int64_t begin = tile * sizes.tile, end = sizes.tile_end(tile);
    for (int64_t last = end, first = 0; last > begin; last = first) {
      first = begin + (last - 1 - begin) / kWkv7Saved * kWkv7Saved;
      const int64_t chunk = bh * chunks + sizes.chunk(tile, first);
      wkv7_backward_chunk<T, Q>(op, sizes, bh, first, last, saved + chunk * n * 16 * Q, scratch);
    }
    if (!folds) continue;
    const int64_t entry = tile * sizes.batch * sizes.heads + bh;
    fold<Q, true>(n, scratch.at_tile_end(), map_of<Q>(op.m, entry, n), map_of<Q>(op.c, entry, n),
                  scratch.adjoint());
  }
  if (sizes.handed == 0) add_handed<Q>(op, bh, scratch);
  if (!op.ds_in.empty()) {
    from_key_major<Q>(n, scratch.adjoint(), op.ds_in.as<float>() + bh * n * n);
  }
}

template <class T>
struct ForwardBody {
  const Stream& stream;
  const Wkv7Forward& op;
  template <int Q>
  void run() const {
    for_blocks(stream, op.in.r.shape[0] * op.in.r.shape[2], 1,
               [&](int64_t bh, int64_t) { wkv7_forward_head<T, Q>(op, bh); });
  }
};

template <class T>
struct BackwardBody {
  const Stream& stream;
  const Wkv7Backward& op;
  template <int Q>
  void run() const {
    const int64_t heads = op.in.r.shape[0] * op.in.r.shape[2], parts = stream.threads;
    const int64_t size = op.scratch.shape[1];
    // One part a thread: each has its own scratch.
    for_blocks(stream, parts, 1, [&](int64_t part, int64_t) {
      for (int64_t bh = heads * part / parts; bh < heads * (part + 1) / parts; ++bh) {
        wkv7_backward_head<T, Q>(op, bh, op.scratch.as<float>() + part * size);
      }
    });
  }
};

template <class T>
void wkv7_forward(const Stream& stream, const Wkv7Forward& op) {
  by_head_size(op.in.r.shape[3], ForwardBody<T>{stream, op});
}

template <class T>
void wkv7_backward(const Stream& stream, const Wkv7Backward& op) {
  by_head_size(op.in.r.shape[3], BackwardBody<T>{stream, op});
}

}  // namespace rwkv::cpu::RWKV_ISA
