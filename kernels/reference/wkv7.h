#pragma once

#include <algorithm>

#include "core/base/stream.h"
#include "kernels/reference/scalar.h"
#include "kernels/wkv7.h"

namespace rwkv::reference {

template <class S>
S decay_of(const S& w_raw) {
  return std::exp(-S(kDecayScale) * sigmoid(w_raw));
}

// One token of one head, in place on `state` (N, N): row = value, column = key. y may be nullptr.
template <class S>
void wkv7_token(int64_t n, const S* w_raw, const S* k, const S* v, const S* a, const S* b, S* state,
                S* removed) {
  for (int64_t i = 0; i < n; ++i) {
    S sa = 0;
    for (int64_t j = 0; j < n; ++j) sa += state[i * n + j] * a[j];
    for (int64_t j = 0; j < n; ++j) {
      state[i * n + j] = state[i * n + j] * decay_of(w_raw[j]) + sa * b[j] + v[i] * k[j];
    }
    if (removed != nullptr) removed[i] = sa;
  }
}

template <class S>
void wkv7_forward(const Stream&, const Wkv7Forward& op) {
  const int64_t batch = op.r.shape[0], tokens = op.r.shape[1], heads = op.r.shape[2];
  const int64_t n = op.r.shape[3], square = n * n, chunks = wkv7_saved_states(tokens);
  const S *r = op.r.as<S>(), *k = op.k.as<S>(), *v = op.v.as<S>(), *a = op.a.as<S>();
  const S *b = op.b.as<S>(), *w_raw = op.w_raw.as<S>(), *s_in = op.s_in.as<S>();
  S *y = op.y.as<S>(), *s_out = op.s_out.as<S>(), *saved = op.s_saved.as<S>();
  for (int64_t bh = 0; bh < batch * heads; ++bh) {
    S* state = s_out + bh * square;
    if (s_out != s_in) std::copy(s_in + bh * square, s_in + (bh + 1) * square, state);
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t at = ((bh / heads * tokens + t) * heads + bh % heads) * n;
      if (saved != nullptr && t % kWkv7Saved == 0) {
        std::copy(state, state + square, saved + (bh * chunks + t / kWkv7Saved) * square);
      }
      wkv7_token(n, w_raw + at, k + at, v + at, a + at, b + at, state, static_cast<S*>(nullptr));
      for (int64_t i = 0; i < n; ++i) {
        S sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += state[i * n + j] * r[at + j];
        y[at + i] = sum;
      }
    }
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
    dr[j] += sum_r;
    dk[j] += sum_k;
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

template <class S>
void wkv7_backward(const Stream&, const Wkv7Backward& op) {
  const int64_t batch = op.r.shape[0], tokens = op.r.shape[1], heads = op.r.shape[2];
  const int64_t n = op.r.shape[3], square = n * n, chunks = wkv7_saved_states(tokens);
  const S *r = op.r.as<S>(), *k = op.k.as<S>(), *v = op.v.as<S>(), *a = op.a.as<S>();
  const S *b = op.b.as<S>(), *w_raw = op.w_raw.as<S>(), *dy = op.dy.as<S>();
  const S *saved = op.s_saved.as<S>(), *ds_out = op.ds_out.as<S>();
  S *dr = op.dr.as<S>(), *dk = op.dk.as<S>(), *dv = op.dv.as<S>(), *da = op.da.as<S>();
  S *db = op.db.as<S>(), *dw_raw = op.dw_raw.as<S>(), *ds_in = op.ds_in.as<S>();
  S* states = op.scratch.as<S>();  // (kWkv7Saved + 1, N, N): before each token, and after
  S* adjoint = states + (kWkv7Saved + 1) * square;
  S* removed = adjoint + square;  // (N)
  for (int64_t bh = 0; bh < batch * heads; ++bh) {
    for (int64_t i = 0; i < square; ++i) {
      adjoint[i] = ds_out == nullptr ? S(0) : ds_out[bh * square + i];
    }
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      const int64_t first = chunk * kWkv7Saved, last = std::min(first + kWkv7Saved, tokens);
      const S* start = saved + (bh * chunks + chunk) * square;
      std::copy(start, start + square, states);
      const auto at = [&](int64_t t) {
        return ((bh / heads * tokens + t) * heads + bh % heads) * n;
      };
      for (int64_t t = first; t < last; ++t) {
        S* state = states + (t - first + 1) * square;
        std::copy(state - square, state, state);
        wkv7_token(n, w_raw + at(t), k + at(t), v + at(t), a + at(t), b + at(t), state, removed);
      }
      for (int64_t t = last - 1; t >= first; --t) {
        const int64_t o = at(t);
        const S* before = states + (t - first) * square;
        for (int64_t i = 0; i < n; ++i) {
          removed[i] = 0;
          for (int64_t j = 0; j < n; ++j) removed[i] += before[i * n + j] * a[o + j];
        }
        wkv7_token_backward(n, r + o, w_raw + o, k + o, v + o, a + o, b + o, dy + o, before,
                            before + square, removed, adjoint, dr + o, dw_raw + o, dk + o, dv + o,
                            da + o, db + o);
      }
    }
    if (ds_in != nullptr) std::copy(adjoint, adjoint + square, ds_in + bh * square);
  }
}

}  // namespace rwkv::reference
