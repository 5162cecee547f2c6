// Causal attention for any type and head: a warp a query, or backward a key. Of a tile of keys a
// thread has two; of sums over a tile it has every 32nd channel.
#pragma once

#include "kernels/attention_tiles.h"
#include "kernels/cuda/device.h"

namespace rwkv::cuda {

inline constexpr int kAttentionWarps = kThreads / kWarp;
inline constexpr int kAttentionShare = static_cast<int>(kAttentionMaxHead) / kWarp;

// What attention reads.
template <class T>
struct AttentionRows {
  AttentionTiles of;
  const T *q, *k, *v, *k_left, *v_left;

  explicit AttentionRows(const AttentionInput& op)
      : of(op),
        q(in<T>(op.q)),
        k(in<T>(op.k)),
        v(in<T>(op.v)),
        k_left(in<T>(op.k_left)),
        v_left(in<T>(op.v_left)) {}

  RWKV_DEVICE const T* key(int64_t b, int64_t row, int64_t key_head) const {
    return (row < of.left ? k_left : k) + of.place_in(b, row, key_head, of.key_heads);
  }
  RWKV_DEVICE const T* value(int64_t b, int64_t row, int64_t key_head) const {
    return (row < of.left ? v_left : v) + of.place_in(b, row, key_head, of.key_heads);
  }
  RWKV_DEVICE float dot(const T* x, const T* y) const {
    float sum = 0;
    for (int64_t n = 0; n < of.size; ++n) sum += load(x + n) * load(y + n);
    return sum;
  }
};

// Gradients of keys, or of values.
template <class T>
struct KeyGradients {
  const float* right;  // (B, R, Hk, N); nullptr: nothing
  int64_t given;       // R
  float* left;         // (B, L, Hk, N); nullptr: not wanted
  T* own;              // (B, T, Hk, N)

  KeyGradients(const ConstTensor& from_right, const Tensor& to_left, const Tensor& to_own)
      : right(in<float>(from_right)),
        given(from_right.empty() ? 0 : from_right.shape[1]),
        left(out<float>(to_left)),
        own(out<T>(to_own)) {}

  // Channels from n on; nullptr: the right neighbours give this row nothing.
  RWKV_DEVICE const float* given_at(const AttentionTiles& of, int64_t b, int64_t row, int64_t head,
                                    int64_t n) const {
    const int64_t at = row - (of.rows() - given);
    return at < 0 || given == 0 ? nullptr
                                : right + ((b * given + at) * of.key_heads + head) * of.size + n;
  }
};

RWKV_DEVICE int64_t own_warp() { return block_index() * kAttentionWarps + warp_index(); }

// Every 32nd channel of a row.
struct ChannelShare {
  float x[kAttentionShare];

  RWKV_DEVICE void clear() {
    for (int i = 0; i < kAttentionShare; ++i) x[i] = 0;
  }
  RWKV_DEVICE void scale(float by) {
    for (int i = 0; i < kAttentionShare; ++i) x[i] *= by;
  }
  template <class T>
  RWKV_DEVICE void add(float weight, const T* row, int64_t size) {
    for (int i = 0; i < kAttentionShare; ++i) {
      const int n = lane_index() + i * kWarp;
      if (n < size) x[i] += weight * load(row + n);
    }
  }
  template <class T>
  RWKV_DEVICE void write(T* row, int64_t size) const {
    for (int i = 0; i < kAttentionShare; ++i) {
      const int n = lane_index() + i * kWarp;
      if (n < size) store(row + n, x[i]);
    }
  }
};

template <class T>
struct AttentionForwardKernel {
  AttentionRows<T> in;
  T* y;
  float* lse;

  RWKV_DEVICE void operator()() const {
    const AttentionTiles& of = in.of;
    const int64_t query = own_warp();
    if (query >= of.batch * of.tokens * of.heads) return;
    const int64_t b = query / of.heads / of.tokens, row = of.left + query / of.heads % of.tokens;
    const int64_t h = query % of.heads, kh = h / of.group(), from = of.first_seen(b, row);
    float largest = -HUGE_VALF, total = 0;
    ChannelShare sum;
    sum.clear();
    for (int64_t tile = of.tile_of(from); tile <= of.tile_of(row); ++tile) {
      const int64_t first = of.row_of(tile);
      float p[2];
      for (int i = 0; i < 2; ++i) {
        const int64_t key = first + lane_index() + i * kWarp;
        const bool seen = key >= from && key <= row;
        p[i] = seen ? of.scale * in.dot(in.q + query * of.size, in.key(b, key, kh)) : -HUGE_VALF;
      }
      const float highest = warp_max(p[0] > p[1] ? p[0] : p[1]);
      const float now = highest > largest ? highest : largest, shrink = expf(largest - now);
      largest = now;
      for (int i = 0; i < 2; ++i) p[i] = expf(p[i] - now);
      total = total * shrink + warp_sum(p[0] + p[1]);
      sum.scale(shrink);
      for (int j = 0; j < kAttentionTile; ++j) {
        const float weight = device::warp_read(p[j / kWarp], j % kWarp);
        if (weight != 0) sum.add(weight, in.value(b, first + j, kh), of.size);
      }
    }
    sum.scale(1 / total);
    sum.write(y + query * of.size, of.size);
    if (lane_index() == 0) lse[query] = largest + logf(total);
  }
};

// delta = y . dy, a warp a query.
template <class T>
struct AttentionDelta {
  const T *y, *dy;
  float* delta;
  int64_t queries, size;

  RWKV_DEVICE void operator()() const {
    const int64_t query = own_warp();
    if (query >= queries) return;
    float sum = 0;
    for (int64_t n = lane_index(); n < size; n += kWarp) {
      sum += load(y + query * size + n) * load(dy + query * size + n);
    }
    sum = warp_sum(sum);
    if (lane_index() == 0) delta[query] = sum;
  }
};

template <class T>
struct AttentionQueryBack {
  AttentionRows<T> in;
  const T* dy;
  const float *lse, *delta;
  T* dq;

  RWKV_DEVICE void operator()() const {
    const AttentionTiles& of = in.of;
    const int64_t query = own_warp();
    if (query >= of.batch * of.tokens * of.heads) return;
    const int64_t b = query / of.heads / of.tokens, row = of.left + query / of.heads % of.tokens;
    const int64_t kh = query % of.heads / of.group(), from = of.first_seen(b, row);
    ChannelShare sum;
    sum.clear();
    for (int64_t tile = of.tile_of(from); tile <= of.tile_of(row); ++tile) {
      const int64_t first = of.row_of(tile);
      float ds[2];
      for (int i = 0; i < 2; ++i) {
        const int64_t key = first + lane_index() + i * kWarp;
        ds[i] = 0;
        if (key < from || key > row) continue;
        const float score = of.scale * in.dot(in.q + query * of.size, in.key(b, key, kh));
        const float dp = in.dot(dy + query * of.size, in.value(b, key, kh));
        ds[i] = of.scale * expf(score - lse[query]) * (dp - delta[query]);
      }
      for (int j = 0; j < kAttentionTile; ++j) {
        const float weight = device::warp_read(ds[j / kWarp], j % kWarp);
        if (weight != 0) sum.add(weight, in.key(b, first + j, kh), of.size);
      }
    }
    sum.write(dq + query * of.size, of.size);
  }
};

template <class T>
struct AttentionKeyBack {
  AttentionRows<T> in;
  const T* dy;
  const float *lse, *delta;
  KeyGradients<T> dk, dv;

  RWKV_DEVICE void operator()() const {
    const AttentionTiles& of = in.of;
    const int64_t key = own_warp();
    if (key >= of.batch * of.rows() * of.key_heads) return;
    const int64_t b = key / of.key_heads / of.rows(), row = key / of.key_heads % of.rows();
    const int64_t kh = key % of.key_heads;
    ChannelShare k_sum, v_sum;
    start(dk, b, row, kh, k_sum);
    start(dv, b, row, kh, v_sum);
    const int64_t own = of.tile_of(of.left), tile = of.tile_of(row), low = tile > own ? tile : own;
    for (int64_t i = of.last_query_tile(tile); i >= low; --i) {
      for (int64_t h = kh * of.group(); h < (kh + 1) * of.group(); ++h) {
        add_tile(b, row, kh, h, of.row_of(i), k_sum, v_sum);
      }
    }
    finish(dk, b, row, kh, k_sum);
    finish(dv, b, row, kh, v_sum);
  }

 private:
  RWKV_DEVICE void add_tile(int64_t b, int64_t row, int64_t kh, int64_t h, int64_t first,
                            ChannelShare& k_sum, ChannelShare& v_sum) const {
    const AttentionTiles& of = in.of;
    float p[2], ds[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t query = first + lane_index() + i * kWarp;
      p[i] = ds[i] = 0;
      if (query < of.left || query >= of.rows() || query < row) continue;
      if (of.first_seen(b, query) > row) continue;
      const int64_t at = of.place_in(b, query, h, of.heads), number = at / of.size;
      const float score = of.scale * in.dot(in.q + at, in.key(b, row, kh));
      p[i] = expf(score - lse[number]);
      ds[i] = of.scale * p[i] * (in.dot(dy + at, in.value(b, row, kh)) - delta[number]);
    }
    for (int j = 0; j < kAttentionTile; ++j) {
      const float by_p = device::warp_read(p[j / kWarp], j % kWarp);
      const float by_ds = device::warp_read(ds[j / kWarp], j % kWarp);
      if (by_p == 0 && by_ds == 0) continue;
      const int64_t at = of.place_in(b, first + j, h, of.heads);
      k_sum.add(by_ds, in.q + at, of.size);
      v_sum.add(by_p, dy + at, of.size);
    }
  }
  RWKV_DEVICE void start(const KeyGradients<T>& d, int64_t b, int64_t row, int64_t kh,
                         ChannelShare& sum) const {
    sum.clear();
    const float* given = d.given_at(in.of, b, row, kh, 0);
    if (given != nullptr) sum.add(1, given, in.of.size);
  }
  RWKV_DEVICE void finish(const KeyGradients<T>& d, int64_t b, int64_t row, int64_t kh,
                          const ChannelShare& sum) const {
    const int64_t at = in.of.place_in(b, row, kh, in.of.key_heads);
    if (row >= in.of.left) return sum.write(d.own + at, in.of.size);
    if (d.left != nullptr) sum.write(d.left + at, in.of.size);
  }
};

template <class Kernel>
void launch_warps(const Stream& stream, int64_t warps, const Kernel& kernel) {
  device::launch(stream, {(warps + kAttentionWarps - 1) / kAttentionWarps, kThreads, 0}, kernel);
}

}  // namespace rwkv::cuda
