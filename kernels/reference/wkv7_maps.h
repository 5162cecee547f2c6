#pragma once

#include <algorithm>

#include "kernels/reference/wkv7_token.h"

namespace rwkv::reference {

// One row: out = s M + add, or s M^T + add. `out` is neither s nor add.
template <class S>
void wkv7_fold_row(int64_t n, bool transposed, const S* s, const S* m, const S* add, S* out) {
  for (int64_t j = 0; j < n; ++j) {
    out[j] = add[j];
    for (int64_t l = 0; l < n; ++l) out[j] += s[l] * (transposed ? m[j * n + l] : m[l * n + j]);
  }
}

template <class S>
void wkv7_map(const Stream&, const Wkv7Map& op) {
  const Wkv7Sizes sizes(op.in);
  const int64_t n = sizes.n, heads = sizes.batch * sizes.heads;
  const S *k = op.in.k.as<S>(), *v = op.in.v.as<S>(), *a = op.in.a.as<S>(), *b = op.in.b.as<S>();
  RawDecayRows<S> raw(op.in);
  for (int64_t entry = op.first * heads; entry < op.end * heads; ++entry) {
    const int64_t tile = entry / heads, bh = entry % heads;
    S *m = op.m.as<S>() + entry * sizes.padded, *from_zero = op.b.as<S>() + entry * sizes.padded;
    for (int64_t i = 0; i < n * n; ++i) {
      m[i] = S(i / n == i % n ? 1 : 0);
      from_zero[i] = 0;
    }
    const int64_t end = std::min(sizes.tile_end(tile), sizes.handed);
    for (int64_t t = tile * sizes.tile; t < end; ++t) {
      const int64_t at = sizes.at(bh, t);
      if (sizes.starts(op.in, bh, t)) {
        std::fill(m, m + n * n, S(0));
        std::fill(from_zero, from_zero + n * n, S(0));
      }
      const S* w_raw = raw.at(at);
      wkv7_token(n, w_raw, k + at, v + at, a + at, b + at, from_zero);
      wkv7_token(n, w_raw, k + at, static_cast<const S*>(nullptr), a + at, b + at, m);
    }
  }
}

template <class S>
void wkv7_map_backward(const Stream&, const Wkv7MapBackward& op) {
  const Wkv7Sizes sizes(op.in);
  const int64_t n = sizes.n, heads = sizes.batch * sizes.heads;
  const S *r = op.in.r.as<S>(), *a = op.in.a.as<S>(), *b = op.in.b.as<S>();
  const S* dy = op.dy.as<S>();
  RawDecayRows<S> raw(op.in);
  for (int64_t entry = op.first * heads; entry < op.end * heads; ++entry) {
    const int64_t tile = entry / heads, bh = entry % heads;
    S* adjoint = op.c.as<S>() + entry * sizes.padded;
    std::fill(adjoint, adjoint + n * n, S(0));
    for (int64_t t = sizes.tile_end(tile) - 1; t >= tile * sizes.tile; --t) {
      const int64_t at = sizes.at(bh, t);
      const bool starts = sizes.starts(op.in, bh, t);
      const S* w_raw = raw.at(at);
      for (int64_t i = 0; i < n; ++i) {
        S q = 0;
        for (int64_t j = 0; j < n; ++j) {
          adjoint[i * n + j] += dy[at + i] * r[at + j];
          q += adjoint[i * n + j] * b[at + j];
        }
        for (int64_t j = 0; j < n; ++j) {
          adjoint[i * n + j] =
              starts ? S(0) : adjoint[i * n + j] * decay_of(w_raw[j]) + q * a[at + j];
        }
      }
    }
  }
}

template <class S>
void wkv7_fold(const Stream&, const Wkv7Fold& op) {
  const int64_t heads = op.out.shape[0] * op.out.shape[1], n = op.out.shape[2];
  const int64_t padded = n * wkv7_state_stride(n);
  const S *m = op.m.as<S>(), *add = op.add.as<S>(), *from = op.from.as<S>();
  for (int64_t bh = 0; bh < heads; ++bh) {
    for (int64_t i = 0; i < n; ++i) {
      S row[kWkv7MaxHead], next[kWkv7MaxHead];
      for (int64_t j = 0; j < n; ++j) row[j] = from == nullptr ? S(0) : from[(bh * n + i) * n + j];
      for (int64_t step = 0; step < op.end - op.first; ++step) {
        const int64_t tile = op.transposed ? op.end - 1 - step : op.first + step;
        const int64_t entry = (tile * heads + bh) * padded;
        wkv7_fold_row(n, op.transposed, row, m + entry, add + entry + i * n, next);
        std::copy(next, next + n, row);
      }
      std::copy(row, row + n, op.out.as<S>() + (bh * n + i) * n);
    }
  }
}

}  // namespace rwkv::reference
