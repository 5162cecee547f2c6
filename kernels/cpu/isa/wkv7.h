// The WKV-7 recurrence, key-major: the state is held as S^T, row = key j, columns = value i, so
// that S a, S r and M^T v are sums over rows of whole vectors. States saved for the backward pass
// keep that layout. Rows are padded with zeros to 16, 32, ... 256 values (Q vectors of 16): heads
// of any even size up to 256 run through the same code.
#pragma once

#include <cstring>

#include "kernels/cpu/isa/vector.h"
#include "kernels/wkv7.h"

namespace rwkv::cpu::RWKV_ISA {

inline constexpr float kDecayScale = 0.60653065971263342f;  // e^-1/2

// One token's operands as float32, Q vectors of 16 channels each; channels from n on stay zero.
template <int Q>
struct TokenRow {
  alignas(64) float r[16 * Q] = {}, w[16 * Q] = {}, k[16 * Q] = {}, v[16 * Q] = {}, a[16 * Q] = {},
                           b[16 * Q] = {};

  template <class T, class Op>
  [[gnu::always_inline]] void read(const Op& op, int64_t at, int n) {
    const T *pr = op.r.template as<T>() + at, *pk = op.k.template as<T>() + at;
    const T *pv = op.v.template as<T>() + at, *pa = op.a.template as<T>() + at;
    const T* pb = op.b.template as<T>() + at;
    const float* pw = op.w_raw.template as<float>() + at;
#pragma omp simd
    for (int c = 0; c < n; ++c) {
      r[c] = load(pr[c]);
      k[c] = load(pk[c]);
      v[c] = load(pv[c]);
      a[c] = load(pa[c]);
      b[c] = load(pb[c]);
      w[c] = exp_fast(-kDecayScale * sigmoid(pw[c]));
    }
  }
};

template <int Q>
[[gnu::always_inline]] inline void load_vectors(const float* from, v16 (&to)[Q]) {
  std::memcpy(to, from, sizeof to);
}

// removed = S a.
template <int Q>
[[gnu::always_inline]] inline void apply_state(int n, const v16* state, const float* a,
                                               v16 (&removed)[Q]) {
  v16 odd[Q];
  for (int q = 0; q < Q; ++q) removed[q] = odd[q] = v16{};
  for (int j = 0; j < n; j += 2) {  // two chains hide the latency of the multiply-adds
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      removed[q] += state[j * Q + q] * a[j];
      odd[q] += state[(j + 1) * Q + q] * a[j + 1];
    }
  }
  for (int q = 0; q < Q; ++q) removed[q] += odd[q];
}

// to = from diag(w) + removed b^T + v k^T; `to` may be `from`. Returns to r in y.
template <int Q>
[[gnu::always_inline]] inline void advance(int n, const v16* from, v16* to, const TokenRow<Q>& x,
                                           const v16 (&removed)[Q], v16 (&y)[Q]) {
  v16 v[Q];
  load_vectors<Q>(x.v, v);
  for (int q = 0; q < Q; ++q) y[q] = v16{};
  for (int j = 0; j < n; ++j) {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      const v16 s = from[j * Q + q] * x.w[j] + removed[q] * x.b[j] + v[q] * x.k[j];
      to[j * Q + q] = s;
      y[q] += s * x.r[j];
    }
  }
}

// (n, n) row = value into key-major rows of 16 Q values, and back.
template <int Q>
[[gnu::always_inline]] inline void to_key_major(int n, const float* from, v16* to) {
  auto* rows = reinterpret_cast<float*>(to);
  std::memset(rows, 0, static_cast<size_t>(n) * Q * sizeof(v16));
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) rows[j * 16 * Q + i] = from[i * n + j];
  }
}

template <int Q>
[[gnu::always_inline]] inline void from_key_major(int n, const v16* from, float* to) {
  const auto* rows = reinterpret_cast<const float*>(from);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) to[i * n + j] = rows[j * 16 * Q + i];
  }
}

template <class T, int Q>
void wkv7_forward_head(const Wkv7Forward& op, int64_t bh) {
  const int64_t tokens = op.r.shape[1], heads = op.r.shape[2], chunks = wkv7_saved_states(tokens);
  const auto n = static_cast<int>(op.r.shape[3]);
  const size_t state_bytes = static_cast<size_t>(n) * Q * sizeof(v16);
  v16 state[16 * Q * Q];
  to_key_major<Q>(n, op.s_in.as<float>() + bh * n * n, state);
  float* saved = op.s_saved.as<float>();
  TokenRow<Q> x;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t at = ((bh / heads * tokens + t) * heads + bh % heads) * n;
    if (saved != nullptr && t % kWkv7Saved == 0) {
      std::memcpy(saved + (bh * chunks + t / kWkv7Saved) * n * 16 * Q, state, state_bytes);
    }
    x.template read<T>(op, at, n);
    v16 removed[Q], y[Q];
    apply_state<Q>(n, state, x.a, removed);
    advance<Q>(n, state, state, x, removed, y);
    T* out = op.y.as<T>() + at;
    for (int c = 0; c < n; ++c) store(out[c], y[c / 16][c % 16]);
  }
  from_key_major<Q>(n, state, op.s_out.as<float>() + bh * n * n);
}

// One token backward (formulas: kernels/reference/wkv7.h). dy as vectors; `adjoint` becomes that of
// the state before the token.
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
    float* dw = op.dw_raw.as<float>() + at;
    const float* w_raw = op.w_raw.as<float>() + at;
#pragma omp simd
    for (int c = 0; c < n; ++c) {
      const float gate = sigmoid(w_raw[c]);
      store(dr[c], load(dr[c]) + r[c]);
      store(dk[c], load(dk[c]) + k[c]);
      store(dv[c], load(dv[c]) + v[c]);
      store(da[c], a[c]);
      store(db[c], b[c]);
      dw[c] = -kDecayScale * x.w[c] * gate * (1.0f - gate) * w[c];
    }
  }
};

template <class T, int Q>
void wkv7_backward_head(const Wkv7Backward& op, int64_t bh, float* scratch) {
  const int64_t tokens = op.r.shape[1], heads = op.r.shape[2], chunks = wkv7_saved_states(tokens);
  const auto n = static_cast<int>(op.r.shape[3]);
  const int64_t square = int64_t{n} * 16 * Q;  // a padded state, in floats
  const auto at = [&](int64_t t) { return ((bh / heads * tokens + t) * heads + bh % heads) * n; };
  const auto state = [&](int64_t i) { return reinterpret_cast<v16*>(scratch + i * square); };
  v16* adjoint = state(kWkv7Saved + 1);  // 0 ... kWkv7Saved: before each token, and after the last
  if (op.ds_out.empty()) {
    std::memset(adjoint, 0, static_cast<size_t>(square) * sizeof(float));
  } else {
    to_key_major<Q>(n, op.ds_out.as<float>() + bh * n * n, adjoint);
  }
  TokenRow<Q> rows[kWkv7Saved];
  v16 removed[kWkv7Saved][Q];
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    const int64_t first = chunk * kWkv7Saved;
    const int64_t last = first + kWkv7Saved < tokens ? first + kWkv7Saved : tokens;
    std::memcpy(state(0), op.s_saved.as<float>() + (bh * chunks + chunk) * square,
                static_cast<size_t>(square) * sizeof(float));
    for (int64_t t = first; t < last; ++t) {
      const int64_t i = t - first;
      v16 y[Q];
      rows[i].template read<T>(op, at(t), n);
      apply_state<Q>(n, state(i), rows[i].a, removed[i]);
      advance<Q>(n, state(i), state(i + 1), rows[i], removed[i], y);
    }
    for (int64_t t = last - 1; t >= first; --t) {
      const int64_t i = t - first;
      const T* dy_row = op.dy.as<T>() + at(t);
      alignas(64) float dy_floats[16 * Q] = {};
      for (int c = 0; c < n; ++c) dy_floats[c] = load(dy_row[c]);
      v16 dy[Q];
      load_vectors<Q>(dy_floats, dy);
      TokenGradient<Q> gradient;
      gradient.compute(n, rows[i], dy, removed[i], state(i), state(i + 1), adjoint);
      gradient.template write<T>(op, rows[i], at(t), n);
    }
  }
  if (!op.ds_in.empty()) from_key_major<Q>(n, adjoint, op.ds_in.as<float>() + bh * n * n);
}

// Calls the template for the number of vectors that holds n values.
template <class Body>
[[gnu::always_inline]] inline void by_head_size(int64_t n, const Body& body) {
  switch (wkv7_state_stride(n)) {
    case 16:
      return body.template run<1>();
    case 32:
      return body.template run<2>();
    case 64:
      return body.template run<4>();
    case 128:
      return body.template run<8>();
    default:
      return body.template run<16>();
  }
}

template <class T>
struct ForwardBody {
  const Stream& stream;
  const Wkv7Forward& op;
  template <int Q>
  void run() const {
    for_blocks(stream, op.r.shape[0] * op.r.shape[2], 1,
               [&](int64_t bh, int64_t) { wkv7_forward_head<T, Q>(op, bh); });
  }
};

template <class T>
struct BackwardBody {
  const Stream& stream;
  const Wkv7Backward& op;
  template <int Q>
  void run() const {
    const int64_t heads = op.r.shape[0] * op.r.shape[2], parts = stream.threads;
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
  by_head_size(op.r.shape[3], ForwardBody<T>{stream, op});
}

template <class T>
void wkv7_backward(const Stream& stream, const Wkv7Backward& op) {
  by_head_size(op.r.shape[3], BackwardBody<T>{stream, op});
}

}  // namespace rwkv::cpu::RWKV_ISA
