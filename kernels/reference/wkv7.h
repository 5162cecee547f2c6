#pragma once

#include <algorithm>

#include "kernels/reference/wkv7_maps.h"

namespace rwkv::reference {

// One row of one head's state through all tokens.
template <class S>
void wkv7_forward_row(const Wkv7Forward& op, const Wkv7Sizes& sizes, int64_t bh, int64_t i) {
  const int64_t n = sizes.n, chunks = wkv7_saved_states(sizes.tokens, sizes.tile);
  const Wkv7Sequence& in = op.in;
  const S *r = in.r.as<S>(), *k = in.k.as<S>(), *v = in.v.as<S>(), *a = in.a.as<S>();
  const S *b = in.b.as<S>(), *s_in = op.s_in.as<S>();
  S *saved = op.s_saved.as<S>(), *s_out = op.s_out.as<S>();
  RawDecayRows<S> raw(in);
  S row[kWkv7MaxHead], entering[kWkv7MaxHead];
  for (int64_t j = 0; j < n; ++j) row[j] = s_in == nullptr ? S(0) : s_in[(bh * n + i) * n + j];
  for (int64_t tile = 0; tile < sizes.tiles; ++tile) {
    std::copy(row, row + n, entering);
    const int64_t first = tile * sizes.tile;
    for (int64_t t = first; t < sizes.tile_end(tile); ++t) {
      const int64_t at = sizes.at(bh, t);
      if (saved != nullptr && (t - first) % kWkv7Saved == 0) {
        std::copy(row, row + n, saved + ((bh * chunks + sizes.chunk(tile, t)) * n + i) * n);
      }
      if (sizes.starts(in, bh, t)) std::fill(row, row + n, S(0));
      wkv7_token_row(n, raw.at(at), k + at, v[at + i], a + at, b + at, row);
      S sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += row[j] * r[at + j];
      op.y.as<S>()[at + i] = sum;
    }
    if (op.m.empty() || (tile + 1 == sizes.tiles && s_out == nullptr)) continue;
    if (tile == 0 && s_in == nullptr) continue;
    const int64_t entry = (tile * sizes.batch * sizes.heads + bh) * sizes.padded;
    wkv7_fold_row(n, false, entering, op.m.as<S>() + entry, op.b.as<S>() + entry + i * n, row);
  }
  if (s_out != nullptr) std::copy(row, row + n, s_out + (bh * n + i) * n);
}

template <class S>
void wkv7_forward(const Stream&, const Wkv7Forward& op) {
  const Wkv7Sizes sizes(op.in);
  for (int64_t bh = 0; bh < sizes.batch * sizes.heads; ++bh) {
    for (int64_t i = 0; i < sizes.n; ++i) wkv7_forward_row<S>(op, sizes, bh, i);
  }
}

// With G = dy, M the adjoint of S (model equations: docs/numerics.md):
//   M += G r^T; dr = S_t^T G; dw_j = sum_i M_ij S^{t-1}_ij; dk = M^T v; dv = M k; db = M^T sa;
//   q = M b; da = (S^{t-1})^T q; M <- M diag(w) + q a^T.
template <class S>
void wkv7_token_backward(int64_t n, const S* r, const S* w_raw, const S* k, const S* v, const S* a,
                         const S* b, const S* dy, const S* before, const S* after, const S* removed,
                         S* adjoint, S* dr, S* dw_raw, S* dk, S* dv, S* da, S* db) {
  for (int64_t j = 0; j < n; ++j) {
    S sum_r = 0, sum_w = 0, sum_k = 0, sum_b = 0;
    for (int64_t i = 0; i < n; ++i) {
      adjoint[i * n + j] += dy[i] * r[j];
      const S m = adjoint[i * n + j];
      sum_r += after[i * n + j] * dy[i];
      sum_w += m * before[i * n + j];
      sum_k += m * v[i];
      sum_b += m * removed[i];
    }
    const S gate = sigmoid(w_raw[j]);
    dr[j] = sum_r;
    dk[j] = sum_k;
    db[j] = sum_b;
    dw_raw[j] = -S(kDecayScale) * decay_of(w_raw[j]) * gate * (S(1) - gate) * sum_w;
    da[j] = 0;
  }
  for (int64_t i = 0; i < n; ++i) {
    S q = 0, sum_v = 0;
    for (int64_t j = 0; j < n; ++j) {
      q += adjoint[i * n + j] * b[j];
      sum_v += adjoint[i * n + j] * k[j];
    }
    dv[i] += sum_v;
    for (int64_t j = 0; j < n; ++j) {
      da[j] += before[i * n + j] * q;
      adjoint[i * n + j] = adjoint[i * n + j] * decay_of(w_raw[j]) + q * a[j];
    }
  }
}

// The scratch of a backward pass: (N, N) each.
template <class S>
struct BackwardScratch {
  S* memory;
  int64_t square;
  S* state(int64_t i) const { return memory + i * square; }
  // 0 ... kWkv7Saved: before each token of a chunk, and after the last.
  S* adjoint() const { return state(kWkv7Saved + 1); }
  S* at_tile_end() const { return state(kWkv7Saved + 2); }
  S* zero() const { return state(kWkv7Saved + 3); }
  S* removed() const { return state(kWkv7Saved + 4); }  // (N)
};

// The gradient of the state that is handed on joins there.
template <class S>
void add_handed(const Wkv7Backward& op, int64_t bh, int64_t square, S* adjoint) {
  if (op.ds_out.empty()) return;
  for (int64_t i = 0; i < square; ++i) adjoint[i] += op.ds_out.as<S>()[bh * square + i];
}

template <class S>
void add_bonus(const Wkv7Backward& op, int64_t at, int64_t n) {
  if (op.bonus.gradient.empty()) return;
  const int64_t heads = op.in.k.shape[2];
  const S *r_k = op.bonus.r_k.as<S>() + at / n % heads * n, *r = op.in.r.as<S>() + at;
  const S *k = op.in.k.as<S>() + at, gradient = op.bonus.gradient.as<S>()[at / n];
  for (int64_t j = 0; j < n; ++j) {
    op.dr.as<S>()[at + j] += gradient * r_k[j] * k[j];
    op.dk.as<S>()[at + j] += gradient * r_k[j] * r[j];
  }
}

// Tokens [first, last) of one chunk, from the last to the first; `saved`: the state before them.
template <class S>
void wkv7_backward_chunk(const Wkv7Backward& op, const Wkv7Sizes& sizes, int64_t bh, int64_t first,
                         int64_t last, const S* saved, const BackwardScratch<S>& scratch) {
  const int64_t n = sizes.n, square = n * n;
  const Wkv7Sequence& in = op.in;
  const S *r = in.r.as<S>(), *k = in.k.as<S>(), *v = in.v.as<S>(), *a = in.a.as<S>();
  const S *b = in.b.as<S>(), *dy = op.dy.as<S>();
  S *dr = op.dr.as<S>(), *dk = op.dk.as<S>(), *dv = op.dv.as<S>(), *da = op.da.as<S>();
  S *db = op.db.as<S>(), *dw_raw = op.dw_raw.as<S>(), *removed = scratch.removed();
  RawDecayRows<S> raw(in);
  std::copy(saved, saved + square, scratch.state(0));
  const auto before = [&](int64_t t) {
    return sizes.starts(in, bh, t) ? scratch.zero() : scratch.state(t - first);
  };
  for (int64_t t = first; t < last; ++t) {
    const int64_t at = sizes.at(bh, t);
    S* state = scratch.state(t - first + 1);
    std::copy(before(t), before(t) + square, state);
    wkv7_token(n, raw.at(at), k + at, v + at, a + at, b + at, state);
  }
  for (int64_t t = last - 1; t >= first; --t) {
    const int64_t at = sizes.at(bh, t);
    if (t + 1 == sizes.handed) add_handed(op, bh, square, scratch.adjoint());
    for (int64_t i = 0; i < n; ++i) {
      removed[i] = 0;
      for (int64_t j = 0; j < n; ++j) removed[i] += before(t)[i * n + j] * a[at + j];
    }
    wkv7_token_backward(n, r + at, raw.at(at), k + at, v + at, a + at, b + at, dy + at, before(t),
                        scratch.state(t - first + 1), removed, scratch.adjoint(), dr + at,
                        dw_raw + at, dk + at, dv + at, da + at, db + at);
    add_bonus<S>(op, at, n);
    if (sizes.starts(in, bh, t)) std::fill(scratch.adjoint(), scratch.adjoint() + square, S(0));
  }
}

template <class S>
void wkv7_backward(const Stream&, const Wkv7Backward& op) {
  const Wkv7Sizes sizes(op.in);
  const int64_t n = sizes.n, square = n * n;
  const int64_t chunks = wkv7_saved_states(sizes.tokens, sizes.tile);
  const S *ds_out = op.ds_out.as<S>(), *saved = op.s_saved.as<S>();
  const BackwardScratch<S> scratch{op.scratch.as<S>(), square};
  std::fill(scratch.zero(), scratch.zero() + square, S(0));
  for (int64_t bh = 0; bh < sizes.batch * sizes.heads; ++bh) {
    S* adjoint = scratch.adjoint();
    std::fill(adjoint, adjoint + square, S(0));
    for (int64_t tile = sizes.tiles - 1; tile >= 0; --tile) {
      std::copy(adjoint, adjoint + square, scratch.at_tile_end());
      if (tile + 1 == sizes.tiles) add_handed(op, bh, square, scratch.at_tile_end());
      const int64_t begin = tile * sizes.tile, end = sizes.tile_end(tile);
      for (int64_t last = end, first = 0; last > begin; last = first) {
        first = begin + (last - 1 - begin) / kWkv7Saved * kWkv7Saved;
        const int64_t chunk = bh * chunks + sizes.chunk(tile, first);
        wkv7_backward_chunk(op, sizes, bh, first, last, saved + chunk * square, scratch);
      }
      if (op.m.empty() || (tile == 0 && op.ds_in.empty())) continue;
      if (tile + 1 == sizes.tiles && ds_out == nullptr) continue;
      const int64_t entry = (tile * sizes.batch * sizes.heads + bh) * sizes.padded;
      for (int64_t i = 0; i < n; ++i) {
        wkv7_fold_row(n, true, scratch.at_tile_end() + i * n, op.m.as<S>() + entry,
                      op.c.as<S>() + entry + i * n, adjoint + i * n);
      }
    }
    if (sizes.handed == 0) add_handed(op, bh, square, adjoint);
    if (!op.ds_in.empty()) {
      std::copy(adjoint, adjoint + square, op.ds_in.as<S>() + bh * square);
    }
  }
}

}  // namespace rwkv::reference
