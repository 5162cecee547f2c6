// What the passes over the WKV-7 recurrence share: one token's operands, the state and its steps.
//
// Key-major: the state is held as S^T, row = key j, columns = value i, so that S a, S r and M^T v
// are sums over rows of whole vectors. States saved for the backward pass and maps of tiles keep
// that layout. Rows are padded with zeros to 16, 32, ... 256 values (Q vectors of 16): heads of any
// even size up to 256 run through the same code.
#pragma once

#include <cstring>

#include "kernels/cpu/isa/vector.h"
#include "kernels/wkv7_sizes.h"

namespace rwkv::cpu::RWKV_ISA {

inline constexpr float kDecayScale = 0.60653065971263342f;  // e^-1/2

// One token's operands as float32, Q vectors of 16 channels each; channels from n on stay zero.
template <int Q>
struct TokenRow {
  alignas(64) float r[16 * Q] = {}, w[16 * Q] = {}, k[16 * Q] = {}, v[16 * Q] = {}, a[16 * Q] = {},
                           b[16 * Q] = {}, w_raw[16 * Q] = {};

  template <class T>
  [[gnu::always_inline]] void read(const Wkv7Sequence& in, int64_t at, int n) {
    const T *pr = in.r.template as<T>() + at, *pk = in.k.template as<T>() + at;
    const T *pv = in.v.template as<T>() + at, *pa = in.a.template as<T>() + at;
    const T* pb = in.b.template as<T>() + at;
    const T* pw = in.w_raw.template as<T>() + at;
    for (int c = 0; c < n; ++c) w_raw[c] = load(pw[c]);
    if (!in.w0.empty()) {
      const float* w0 = in.w0.template as<float>() + at % in.w0.elements();
      for (int c = 0; c < n; ++c) w_raw[c] += w0[c];
    }
#pragma omp simd
    for (int c = 0; c < n; ++c) {
      r[c] = load(pr[c]);
      k[c] = load(pk[c]);
      v[c] = load(pv[c]);
      a[c] = load(pa[c]);
      b[c] = load(pb[c]);
      w[c] = exp_fast(-kDecayScale * sigmoid(w_raw[c]));
    }
  }
};

template <int Q>
[[gnu::always_inline]] inline void load_vectors(const float* from, v16 (&to)[Q]) {
  std::memcpy(to, from, sizeof to);
}

template <int Q>
[[gnu::always_inline]] inline void set_zero(int n, v16* state) {
  std::memset(state, 0, static_cast<size_t>(n) * Q * sizeof(v16));
}

template <int Q>
[[gnu::always_inline]] inline void copy_state(int n, const void* from, void* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * Q * sizeof(v16));
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

// to = from diag(w) + removed b^T + v k^T; `to` may be `from`. Where y is wanted, y = to r.
// The sum's order is written out, so that every pass gives a state the same bits.
template <int Q, bool with_y>
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
      if constexpr (with_y) y[q] += s * x.r[j];
    }
  }
}

// The adjoint m of the state after a token: m + dy r^T, and q = m b.
template <int Q>
[[gnu::always_inline]] inline void add_output(int n, v16* adjoint, const TokenRow<Q>& x,
                                              const v16 (&dy)[Q], v16 (&q_sum)[Q]) {
  for (int q = 0; q < Q; ++q) q_sum[q] = v16{};
  for (int j = 0; j < n; ++j) {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      const v16 m = adjoint[j * Q + q] + dy[q] * x.r[j];
      adjoint[j * Q + q] = m;
      q_sum[q] += m * x.b[j];
    }
  }
}

template <class T, int Q>
[[gnu::always_inline]] inline void read_vectors(const T* from, int n, v16 (&to)[Q]) {
  alignas(64) float floats[16 * Q] = {};
  for (int c = 0; c < n; ++c) floats[c] = load(from[c]);
  load_vectors<Q>(floats, to);
}

// (n, n) row = value into key-major rows of 16 Q values, and back.
template <int Q>
[[gnu::always_inline]] inline void to_key_major(int n, const float* from, v16* to) {
  auto* rows = reinterpret_cast<float*>(to);
  set_zero<Q>(n, to);
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

// A state or a map of (B, H) heads in tensors: entry bh of (N, N), or of (N, 16 Q).
template <int Q>
[[gnu::always_inline]] inline void load_state(const ConstTensor& from, int64_t bh, int n, v16* to) {
  if (from.empty()) return set_zero<Q>(n, to);
  to_key_major<Q>(n, from.as<float>() + bh * n * n, to);
}

template <int Q>
[[gnu::always_inline]] inline const v16* map_of(const ConstTensor& maps, int64_t entry, int n) {
  return reinterpret_cast<const v16*>(maps.as<float>() + entry * n * 16 * Q);
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

}  // namespace rwkv::cpu::RWKV_ISA
