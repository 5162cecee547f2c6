// Causal attention: tiles of queries beside tiles of keys, a row of one against all of the other.
#pragma once

#include <cmath>

#include "kernels/attention_tiles.h"
#include "kernels/cpu/isa/vector.h"

namespace rwkv::cpu::RWKV_ISA {

inline constexpr int kTile = static_cast<int>(kAttentionTile);
inline constexpr int kTileVectors = kTile / 16;

// A tile's rows of a head in float, or transposed: a column a row. Zeros where no row is.
struct alignas(64) TileRows {
  float x[kTile * kAttentionMaxHead];
};

// One row, of those of the left neighbours or this segment's own; nullptr: it is not here.
template <class T>
[[gnu::always_inline]] inline const T* attention_row(const AttentionTiles& of,
                                                     const ConstTensor& left,
                                                     const ConstTensor& own, int64_t b, int64_t row,
                                                     int64_t head) {
  if (row < 0 || row >= of.rows() || (row < of.left && left.empty())) return nullptr;
  return (row < of.left ? left.as<T>() : own.as<T>()) + of.place_in(b, row, head, own.shape[2]);
}

// Rows from `first` on.
template <class T>
[[gnu::always_inline]] inline void read_tile(const AttentionTiles& of, const ConstTensor& left,
                                             const ConstTensor& own, int64_t b, int64_t first,
                                             int64_t head, bool transposed, TileRows& to) {
  const int64_t n = own.shape[3];
  for (int64_t i = 0; i < kTile; ++i) {
    const T* from = attention_row<T>(of, left, own, b, first + i, head);
    for (int64_t c = 0; c < n; ++c) {
      to.x[transposed ? c * kTile + i : i * n + c] = from == nullptr ? 0.0f : load(from[c]);
    }
  }
}

// The products of a row with each row of a tile.
[[gnu::always_inline]] inline void row_products(const float* row, const TileRows& transposed,
                                                int64_t n, v16 (&out)[kTileVectors]) {
  for (v16& x : out) x = v16{};
  for (int64_t c = 0; c < n; ++c) {
    v16 column[kTileVectors];
    std::memcpy(column, transposed.x + c * kTile, sizeof column);
    for (int i = 0; i < kTileVectors; ++i) out[i] += row[c] * column[i];
  }
}

// sum += weights times rows.
[[gnu::always_inline]] inline void add_weighted(const float* weight, const TileRows& rows,
                                                int64_t n, float* sum) {
  for (int64_t i = 0; i < kTile; ++i) {
    const float w = weight[i];
    if (w == 0) continue;
    const float* row = rows.x + i * n;
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) sum[c] += w * row[c];
  }
}

template <class T>
[[gnu::always_inline]] inline void read_row(const T* from, int64_t n, float* to) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) to[c] = load(from[c]);
}

// A query on its way over the tiles of keys.
struct QueryRow {
  alignas(64) float q[kAttentionMaxHead], sum[kAttentionMaxHead];
  float largest = -HUGE_VALF, total = 0;

  // Through a tile whose row 0 is `first`; the query sees rows [from, to].
  [[gnu::always_inline]] void take(const AttentionTiles& of, const TileRows& k, const TileRows& v,
                                   int64_t first, int64_t from, int64_t to) {
    alignas(64) float p[kTile];
    v16 scores[kTileVectors];
    row_products(q, k, of.size, scores);
    std::memcpy(p, scores, sizeof p);
    float highest = -HUGE_VALF;
    for (int64_t j = 0; j < kTile; ++j) {
      const bool seen = first + j >= from && first + j <= to;
      p[j] = seen ? p[j] * of.scale : -HUGE_VALF;
      highest = p[j] > highest ? p[j] : highest;
    }
    if (highest == -HUGE_VALF) return;
    const float now = highest > largest ? highest : largest, shrink = exp_fast(largest - now);
    largest = now;
#pragma omp simd
    for (int64_t j = 0; j < kTile; ++j) p[j] = exp_fast(p[j] - now);
    float add = 0;
    for (int64_t j = 0; j < kTile; ++j) add += p[j];
    total = total * shrink + add;
#pragma omp simd
    for (int64_t c = 0; c < of.size; ++c) sum[c] *= shrink;
    add_weighted(p, v, of.size, sum);
  }
};

// body(b, head, tile) for each head and tile of tiles [begin, end).
template <class Body>
[[gnu::always_inline]] inline void each_tile(const Stream& stream, int64_t batch, int64_t heads,
                                             int64_t begin, int64_t end, const Body& body) {
  const int64_t tiles = end - begin;
  for_blocks(stream, batch * heads * tiles, 1, [&](int64_t i, int64_t) {
    body(i / tiles / heads, i / tiles % heads, begin + i % tiles);
  });
}

// The queries of a tile that are here: rows [begin, end), and the first row that any of them sees.
struct QueryRange {
  int64_t begin, end, first_seen;

  [[gnu::always_inline]] QueryRange(const AttentionTiles& of, int64_t b, int64_t tile)
      : begin(of.row_of(tile) > of.left ? of.row_of(tile) : of.left),
        end(of.row_of(tile + 1) < of.rows() ? of.row_of(tile + 1) : of.rows()),
        first_seen(begin) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t seen = of.first_seen(b, r);
      first_seen = seen < first_seen ? seen : first_seen;
    }
  }
};

template <class T>
void attention_forward(const Stream& stream, const AttentionForward& op) {
  const AttentionTiles of(op.in);
  const int64_t n = of.size, group = of.group();
  each_tile(stream, of.batch, of.heads, of.tile_of(of.left), of.end_tile(),
            [&](int64_t b, int64_t h, int64_t tile) {
              TileRows k, v;
              QueryRow rows[kTile];
              const auto [begin, end, lowest] = QueryRange(of, b, tile);
              for (int64_t r = begin; r < end; ++r) {
                QueryRow& row = rows[r - begin];
                read_row(op.in.q.as<T>() + of.place_in(b, r, h, of.heads), n, row.q);
                std::memset(row.sum, 0, sizeof row.sum);
              }
              for (int64_t i = of.tile_of(lowest); i <= tile; ++i) {
                read_tile<T>(of, op.in.k_left, op.in.k, b, of.row_of(i), h / group, true, k);
                read_tile<T>(of, op.in.v_left, op.in.v, b, of.row_of(i), h / group, false, v);
                for (int64_t r = begin; r < end; ++r) {
                  rows[r - begin].take(of, k, v, of.row_of(i), of.first_seen(b, r), r);
                }
              }
              for (int64_t r = begin; r < end; ++r) {
                const QueryRow& row = rows[r - begin];
                const int64_t at = (b * of.tokens + r - of.left) * of.heads + h;
                T* y = op.y.as<T>() + at * n;
                const float inverse = 1 / row.total;
                for (int64_t c = 0; c < n; ++c) store(y[c], row.sum[c] * inverse);
                op.lse.as<float>()[at] = row.largest + std::log(row.total);
              }
            });
}

// p and ds of a row against a tile, where `seen`.
struct ScoreGradients {
  alignas(64) float p[kTile], ds[kTile];

  // of_row, of_row_dy: the row's q and dy (or k and v); lse, delta: of each score.
  template <class Seen, class Lse, class Delta>
  [[gnu::always_inline]] void make(const AttentionTiles& of, const float* row, const float* row_dy,
                                   const TileRows& tile, const TileRows& tile_dy, const Seen& seen,
                                   const Lse& lse, const Delta& delta) {
    v16 scores[kTileVectors], dp[kTileVectors];
    row_products(row, tile, of.size, scores);
    row_products(row_dy, tile_dy, of.size, dp);
    std::memcpy(p, scores, sizeof p);
    std::memcpy(ds, dp, sizeof ds);
    for (int64_t j = 0; j < kTile; ++j) {
      p[j] = seen(j) ? exp_fast(p[j] * of.scale - lse(j)) : 0.0f;
      ds[j] = p[j] * (ds[j] - delta(j)) * of.scale;
    }
  }
};

template <class T>
void attention_query_gradients(const Stream& stream, const AttentionBackward& op) {
  const AttentionTiles of(op.in);
  const int64_t n = of.size, group = of.group();
  each_tile(stream, of.batch, of.heads, of.tile_of(of.left), of.end_tile(),
            [&](int64_t b, int64_t h, int64_t tile) {
              TileRows k, k_columns, v;
              alignas(64) float q[kAttentionMaxHead], dy[kAttentionMaxHead];
              alignas(64) float dq[kTile][kAttentionMaxHead] = {};
              ScoreGradients scores;
              const auto [begin, end, lowest] = QueryRange(of, b, tile);
              for (int64_t i = of.tile_of(lowest); i <= tile; ++i) {
                const int64_t first = of.row_of(i);
                read_tile<T>(of, op.in.k_left, op.in.k, b, first, h / group, false, k);
                read_tile<T>(of, op.in.k_left, op.in.k, b, first, h / group, true, k_columns);
                read_tile<T>(of, op.in.v_left, op.in.v, b, first, h / group, true, v);
                for (int64_t r = begin; r < end; ++r) {
                  const int64_t at = (b * of.tokens + r - of.left) * of.heads + h;
                  const float lse = op.lse.as<float>()[at], delta = op.delta.as<float>()[at];
                  const int64_t seen = of.first_seen(b, r);
                  read_row(op.in.q.as<T>() + at * n, n, q);
                  read_row(op.dy.as<T>() + at * n, n, dy);
                  scores.make(
                      of, q, dy, k_columns, v,
                      [&](int64_t j) { return first + j >= seen && first + j <= r; },
                      [&](int64_t) { return lse; }, [&](int64_t) { return delta; });
                  add_weighted(scores.ds, k, n, dq[r - begin]);
                }
              }
              for (int64_t r = begin; r < end; ++r) {
                T* to = op.dq.as<T>() + of.place_in(b, r, h, of.heads);
                for (int64_t c = 0; c < n; ++c) store(to[c], dq[r - begin][c]);
              }
            });
}

// What the queries of a tile have of a head, for all keys.
struct QueryTile {
  TileRows q, q_columns, dy, dy_columns;
  float lse[kTile], delta[kTile];
  int64_t row[kTile], seen[kTile];  // a query sees rows [seen, row]; none: row -1

  template <class T>
  [[gnu::always_inline]] void read(const AttentionTiles& of, const AttentionBackward& op, int64_t b,
                                   int64_t first, int64_t h) {
    read_tile<T>(of, {}, op.in.q, b, first, h, false, q);
    read_tile<T>(of, {}, op.in.q, b, first, h, true, q_columns);
    read_tile<T>(of, {}, op.dy, b, first, h, false, dy);
    read_tile<T>(of, {}, op.dy, b, first, h, true, dy_columns);
    for (int64_t i = 0; i < kTile; ++i) {
      const bool there = first + i >= of.left && first + i < of.rows();
      const int64_t at = (b * of.tokens + first - of.left + i) * of.heads + h;
      lse[i] = there ? op.lse.as<float>()[at] : 0.0f;
      delta[i] = there ? op.delta.as<float>()[at] : 0.0f;
      row[i] = there ? first + i : -1;
      seen[i] = there ? of.first_seen(b, first + i) : 0;
    }
  }
};

// Where the gradient of a row goes: to the left in float, or with this segment's own.
template <class T>
[[gnu::always_inline]] inline void write_key_gradient(const AttentionTiles& of, const Tensor& left,
                                                      const Tensor& own, int64_t b, int64_t row,
                                                      int64_t h, const float* from) {
  const int64_t n = of.size;
  if (row < of.left) {
    if (left.empty()) return;
    float* to = left.as<float>() + of.place_in(b, row, h, of.key_heads);
    for (int64_t c = 0; c < n; ++c) to[c] = from[c];
  } else {
    T* to = own.as<T>() + of.place_in(b, row, h, of.key_heads);
    for (int64_t c = 0; c < n; ++c) store(to[c], from[c]);
  }
}

// What right neighbours give of a row; zeros where they give nothing.
[[gnu::always_inline]] inline void read_right(const AttentionTiles& of, const ConstTensor& right,
                                              int64_t b, int64_t row, int64_t h, float* to) {
  const int64_t given = right.empty() ? 0 : right.shape[1];
  const int64_t at = row - (of.rows() - given);
  for (int64_t c = 0; c < of.size; ++c) {
    to[c] = at < 0 || given == 0
                ? 0.0f
                : right.as<float>()[((b * given + at) * of.key_heads + h) * of.size + c];
  }
}

template <class T>
void attention_key_gradients(const Stream& stream, const AttentionBackward& op) {
  const AttentionTiles of(op.in);
  const int64_t n = of.size, group = of.group(), all = of.rows();
  each_tile(stream, of.batch, of.key_heads, of.tile_of(0), of.end_tile(),
            [&](int64_t b, int64_t kh, int64_t tile) {
              QueryTile queries;
              ScoreGradients scores;
              alignas(64) float k[kAttentionMaxHead], v[kAttentionMaxHead];
              alignas(64) float dk[kTile][kAttentionMaxHead], dv[kTile][kAttentionMaxHead];
              const int64_t begin = of.row_of(tile) > 0 ? of.row_of(tile) : 0;
              const int64_t end = of.row_of(tile + 1) < all ? of.row_of(tile + 1) : all;
              for (int64_t r = begin; r < end; ++r) {
                read_right(of, op.dk_right, b, r, kh, dk[r - begin]);
                read_right(of, op.dv_right, b, r, kh, dv[r - begin]);
              }
              const int64_t own = of.tile_of(of.left), low = tile > own ? tile : own;
              for (int64_t i = of.last_query_tile(tile); i >= low; --i) {
                for (int64_t h = kh * group; h < (kh + 1) * group; ++h) {
                  queries.read<T>(of, op, b, of.row_of(i), h);
                  for (int64_t r = begin; r < end; ++r) {
                    read_row(attention_row<T>(of, op.in.k_left, op.in.k, b, r, kh), n, k);
                    read_row(attention_row<T>(of, op.in.v_left, op.in.v, b, r, kh), n, v);
                    scores.make(
                        of, k, v, queries.q_columns, queries.dy_columns,
                        [&](int64_t j) { return r >= queries.seen[j] && r <= queries.row[j]; },
                        [&](int64_t j) { return queries.lse[j]; },
                        [&](int64_t j) { return queries.delta[j]; });
                    add_weighted(scores.ds, queries.q, n, dk[r - begin]);
                    add_weighted(scores.p, queries.dy, n, dv[r - begin]);
                  }
                }
              }
              for (int64_t r = begin; r < end; ++r) {
                write_key_gradient<T>(of, op.dk_left, op.dk, b, r, kh, dk[r - begin]);
                write_key_gradient<T>(of, op.dv_left, op.dv, b, r, kh, dv[r - begin]);
              }
            });
}

template <class T>
void attention_backward(const Stream& stream, const AttentionBackward& op) {
  const int64_t n = op.y.shape[3];
  const T *y = op.y.as<T>(), *dy = op.dy.as<T>();
  float* delta = op.delta.as<float>();
  for_blocks(stream, op.y.elements() / n, kRowBlock, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float sum = 0;
      for (int64_t c = 0; c < n; ++c) sum += load(y[r * n + c]) * load(dy[r * n + c]);
      delta[r] = sum;
    }
  });
  attention_query_gradients<T>(stream, op);
  attention_key_gradients<T>(stream, op);
}

}  // namespace rwkv::cpu::RWKV_ISA
