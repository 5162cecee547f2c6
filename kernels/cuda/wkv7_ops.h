// The WKV-7 recurrence, token by token: a block a head, a thread a row of the state, which stays in
// registers. Maps and saved states have dense rows, N x wkv7_state_stride(N) elements apart.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/wkv7.h"

namespace rwkv::cuda {

// What Wkv7Sizes is on the host, and what the recurrence reads.
template <class T>
struct Wkv7Input {
  const T *r, *k, *v, *a, *b, *w_raw;
  const float* w0;
  const int32_t* starts;
  int64_t batch, tokens, heads, tile, tiles, handed;

  explicit Wkv7Input(const Wkv7Sequence& s)
      : r(in<T>(s.r)),
        k(in<T>(s.k)),
        v(in<T>(s.v)),
        a(in<T>(s.a)),
        b(in<T>(s.b)),
        w_raw(in<T>(s.w_raw)),
        w0(in<float>(s.w0)),
        starts(in<int32_t>(s.starts)),
        batch(s.k.shape[0]),
        tokens(s.k.shape[1]),
        heads(s.k.shape[2]),
        tile(s.tile == 0 ? s.k.shape[1] : s.tile),
        tiles(wkv7_tiles(s.k.shape[1], s.tile)),
        handed(s.k.shape[1] - s.overlap) {}

  RWKV_DEVICE int64_t at(int64_t bh, int64_t t, int64_t n) const {
    return ((bh / heads * tokens + t) * heads + bh % heads) * n;
  }
  // w_raw at channel c of the token that begins at `at`, with what belongs to it of w0.
  RWKV_DEVICE float raw_decay(int64_t at, int64_t c, int64_t n) const {
    const float raw = load(w_raw + at + c);
    return w0 == nullptr ? raw : raw + w0[at / n % heads * n + c];
  }
  RWKV_DEVICE int64_t tile_end(int64_t i) const {
    return (i + 1) * tile < tokens ? (i + 1) * tile : tokens;
  }
  RWKV_DEVICE bool overlaps() const { return handed < tokens; }
  RWKV_DEVICE bool starts_at(int64_t bh, int64_t t) const {
    return starts != nullptr && starts[bh / heads * tokens + t] != 0;
  }
  RWKV_DEVICE int64_t map_entry(int64_t i, int64_t bh, int64_t padded) const {
    return (i * batch * heads + bh) * padded;
  }
  // Saved states of a whole sequence and head, and which is the one before token t of tile i.
  RWKV_DEVICE static int64_t saved_states(int64_t count, int64_t per_tile) {
    const int64_t rest = count % per_tile;
    return count / per_tile * ((per_tile + kWkv7Saved - 1) / kWkv7Saved) +
           (rest + kWkv7Saved - 1) / kWkv7Saved;
  }
  RWKV_DEVICE int64_t saved_place(int64_t bh, int64_t i, int64_t t) const {
    return bh * saved_states(tokens, tile) + i * saved_states(tile, tile) +
           (t - i * tile) / kWkv7Saved;
  }
};

template <int N>
inline constexpr int64_t kPadded = N* wkv7_state_stride(N);

// One token's vectors in shared memory, a thread an element.
template <int N>
struct TokenVectors {
  float *w, *k, *v, *a, *b, *r, *dy, *removed, *q;
  RWKV_DEVICE explicit TokenVectors(std::byte* shared) {
    auto* p = reinterpret_cast<float*>(shared);
    w = p, k = p + N, v = p + 2 * N, a = p + 3 * N, b = p + 4 * N, r = p + 5 * N;
    dy = p + 6 * N, removed = p + 7 * N, q = p + 8 * N;
  }
  static constexpr int64_t kBytes = 9 * N * 4;

  template <class T>
  RWKV_DEVICE void load_way(const Wkv7Input<T>& in, int64_t at) const {
    const int n = thread_index();
    w[n] = decay_of(in.raw_decay(at, n, N));
    k[n] = load(in.k + at + n);
    v[n] = load(in.v + at + n);
    a[n] = load(in.a + at + n);
    b[n] = load(in.b + at + n);
  }
};

// row <- row diag(w) + (row a) b^T + value k^T.
template <int N>
RWKV_DEVICE void step_row(const TokenVectors<N>& x, float value, float* row) {
  float removed = 0;
  for (int j = 0; j < N; ++j) removed += row[j] * x.a[j];
  for (int j = 0; j < N; ++j) row[j] = row[j] * x.w[j] + removed * x.b[j] + value * x.k[j];
}

// to = from M + add, or from M^T + add: one row of a fold.
template <int N>
RWKV_DEVICE void fold_row(bool transposed, const float* from, const float* m, const float* add,
                          float* to) {
  for (int j = 0; j < N; ++j) {
    float sum = add[j];
    for (int l = 0; l < N; ++l) sum += from[l] * (transposed ? m[j * N + l] : m[l * N + j]);
    to[j] = sum;
  }
}

template <class T, int N>
struct Wkv7ForwardKernel {
  Wkv7Input<T> in;
  const float *s_in, *m, *b;
  T* y;
  float *s_out, *saved;

  RWKV_DEVICE void operator()() const {
    const TokenVectors<N> x(device::shared_memory());
    const int64_t bh = block_index();
    const int i = thread_index();
    float row[N], entering[N];
    for (int j = 0; j < N; ++j) row[j] = s_in == nullptr ? 0 : s_in[(bh * N + i) * N + j];
    for (int64_t tile = 0; tile < in.tiles; ++tile) {
      for (int j = 0; j < N; ++j) entering[j] = row[j];
      const int64_t first = tile * in.tile, end = in.tile_end(tile);
      for (int64_t t = first; t < end; ++t)
        token(x, bh, tile, t, (t - first) % kWkv7Saved == 0, row);
      if (m == nullptr || (tile + 1 == in.tiles && s_out == nullptr)) continue;
      if (tile == 0 && s_in == nullptr) continue;
      const int64_t entry = in.map_entry(tile, bh, kPadded<N>);
      fold_row<N>(false, entering, m + entry, b + entry + i * N, row);
    }
    if (s_out == nullptr) return;
    for (int j = 0; j < N; ++j) s_out[(bh * N + i) * N + j] = row[j];
  }

 private:
  RWKV_DEVICE void token(const TokenVectors<N>& x, int64_t bh, int64_t tile, int64_t t, bool keeps,
                         float* row) const {
    const int64_t at = in.at(bh, t, N);
    const int i = thread_index();
    device::sync_block();
    x.load_way(in, at);
    x.r[i] = load(in.r + at + i);
    device::sync_block();
    if (saved != nullptr && keeps) {
      float* to = saved + in.saved_place(bh, tile, t) * kPadded<N> + i * N;
      for (int j = 0; j < N; ++j) to[j] = row[j];
    }
    if (in.starts_at(bh, t)) {
      for (int j = 0; j < N; ++j) row[j] = 0;
    }
    step_row<N>(x, x.v[i], row);
    float sum = 0;
    for (int j = 0; j < N; ++j) sum += row[j] * x.r[j];
    store(y + at + i, sum);
  }
};

// Threads 0 ... N - 1 carry rows of B, N ... 2 N - 1 those of M.
template <class T, int N>
struct Wkv7MapKernel {
  Wkv7Input<T> in;
  int64_t first;
  float *m, *b;

  RWKV_DEVICE void operator()() const {
    const TokenVectors<N> x(device::shared_memory());
    const int64_t heads = in.batch * in.heads;
    const int64_t tile = first + block_index() / heads, bh = block_index() % heads;
    const bool of_map = thread_index() >= N;
    const int i = thread_index() % N;
    float row[N];
    for (int j = 0; j < N; ++j) row[j] = of_map && i == j ? 1 : 0;
    const int64_t tile_end = in.tile_end(tile), end = tile_end < in.handed ? tile_end : in.handed;
    for (int64_t t = tile * in.tile; t < end; ++t) {
      device::sync_block();
      if (!of_map) x.load_way(in, in.at(bh, t, N));
      device::sync_block();
      if (in.starts_at(bh, t)) {
        for (int j = 0; j < N; ++j) row[j] = 0;
      }
      step_row<N>(x, of_map ? 0 : x.v[i], row);
    }
    float* to = (of_map ? m : b) + in.map_entry(tile, bh, kPadded<N>) + i * N;
    for (int j = 0; j < N; ++j) to[j] = row[j];
  }
};

// Rows of the adjoint do not mix either.
template <class T, int N>
struct Wkv7MapBackKernel {
  Wkv7Input<T> in;
  const T* dy;
  int64_t first;
  float* c;

  RWKV_DEVICE void operator()() const {
    const TokenVectors<N> x(device::shared_memory());
    const int64_t heads = in.batch * in.heads;
    const int64_t tile = first + block_index() / heads, bh = block_index() % heads;
    const int i = thread_index();
    float row[N];
    for (int j = 0; j < N; ++j) row[j] = 0;
    for (int64_t t = in.tile_end(tile) - 1; t >= tile * in.tile; --t) {
      const int64_t at = in.at(bh, t, N);
      device::sync_block();
      x.w[i] = decay_of(in.raw_decay(at, i, N));
      x.a[i] = load(in.a + at + i);
      x.b[i] = load(in.b + at + i);
      x.r[i] = load(in.r + at + i);
      device::sync_block();
      const float own = load(dy + at + i);
      float q = 0;
      for (int j = 0; j < N; ++j) {
        row[j] += own * x.r[j];
        q += row[j] * x.b[j];
      }
      const bool starts = in.starts_at(bh, t);
      for (int j = 0; j < N; ++j) row[j] = starts ? 0 : row[j] * x.w[j] + q * x.a[j];
    }
    float* to = c + in.map_entry(tile, bh, kPadded<N>) + i * N;
    for (int j = 0; j < N; ++j) to[j] = row[j];
  }
};

template <int N>
struct Wkv7FoldKernel {
  const float *m, *add, *from;
  float* to;
  int64_t first, end, heads;
  bool transposed;

  RWKV_DEVICE void operator()() const {
    const int64_t bh = block_index();
    const int i = thread_index();
    float row[N], next[N];
    for (int j = 0; j < N; ++j) row[j] = from == nullptr ? 0 : from[(bh * N + i) * N + j];
    for (int64_t step = 0; step < end - first; ++step) {
      const int64_t tile = transposed ? end - 1 - step : first + step;
      const int64_t entry = (tile * heads + bh) * kPadded<N>;
      fold_row<N>(transposed, row, m + entry, add + entry + i * N, next);
      for (int j = 0; j < N; ++j) row[j] = next[j];
    }
    for (int j = 0; j < N; ++j) to[(bh * N + i) * N + j] = row[j];
  }
};

}  // namespace rwkv::cuda
