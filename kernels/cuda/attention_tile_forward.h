// Causal attention of bf16 on tensor cores (arXiv 2205.14135, 2307.08691): a block of four warps
// has a tile of queries of a head, warp i its rows 16 i ... 16 i + 15. Tiles of keys and values
// come into shared memory one ahead.
#pragma once

#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/fragments.h"

namespace rwkv::cuda {

inline constexpr int kTileRows = static_cast<int>(kAttentionTile);
static_assert(kTileRows == kAttentionWarps * 16);

// Rows of N bf16 in shared memory.
template <int N>
struct RowsOf {
  static constexpr int kRowBytes = 2 * N + 16;
  RWKV_DEVICE static int offset(int row, int column) { return row * kRowBytes + column * 2; }
  RWKV_DEVICE static int block(int row, int column) { return offset(row, column); }
};
template <int N>
inline constexpr int kTileBytes = kTileRows* RowsOf<N>::kRowBytes;

// Two tiles whose rows belong to one another: keys and values, or queries and the gradients of what
// they give.
template <int N>
struct TilePair {
  std::byte x[kTileBytes<N>], y[kTileBytes<N>];

  // Of rows [first, first + 64); row(r, x, y) says where a row's two are, or that it is not there.
  template <class Row>
  RWKV_DEVICE void fetch(int first, const Bf16* anywhere, const Row& row) {
    constexpr int kPieces = N / 8;  // of 16 bytes, of a row
    RWKV_UNROLL
    for (int i = 0; i < kTileRows * kPieces / kThreads; ++i) {
      const int piece = i * kThreads + thread_index(), r = piece / kPieces;
      const int column = piece % kPieces * 8;
      const Bf16 *from_x = anywhere, *from_y = anywhere;
      const bool there = row(first + r, from_x, from_y);
      const int skip = there ? column : 0;
      copy(x + RowsOf<N>::offset(r, column), from_x + skip, there);
      copy(y + RowsOf<N>::offset(r, column), from_y + skip, there);
    }
  }

 private:
  RWKV_DEVICE static void copy(std::byte* to, const Bf16* from, bool there) {
    device::copy_async(to, reinterpret_cast<const std::byte*>(from), there);
  }
};

// The warp's 16 rows of a tensor, from `row` on, as operands; zeros where row_at gives nullptr.
template <int N, class RowAt>
RWKV_DEVICE void read_rows(const RowAt& row_at, Fragment (&f)[N / 16]) {
  RWKV_UNROLL
  for (int h = 0; h < 2; ++h) {
    const Bf16* from = row_at(own_row() + 8 * h);
    RWKV_UNROLL
    for (int i = 0; i < N / 8; ++i) {
      const int column = 8 * i + own_column();
      f[i / 2].x[i % 2 * 2 + h] =
          from == nullptr ? 0u : *reinterpret_cast<const uint32_t*>(from + column);
    }
  }
}
// A thread's part of row own_row() + 8 h.
template <int N>
RWKV_DEVICE void write_row(const Sums (&s)[N / 16], int h, float scale, Bf16* to) {
  RWKV_UNROLL
  for (int i = 0; i < N / 8; ++i) {
    const float* c = s[i / 2].c[i % 2] + 2 * h;
    *reinterpret_cast<uint32_t*>(to + 8 * i + own_column()) =
        device::pack_bf16(c[0] * scale, c[1] * scale);
  }
}
template <int N>
RWKV_DEVICE void write_row(const Sums (&s)[N / 16], int h, float* to) {
  RWKV_UNROLL
  for (int i = 0; i < N / 8; ++i) {
    const float* c = s[i / 2].c[i % 2] + 2 * h;
    *reinterpret_cast<Floats2*>(to + 8 * i + own_column()) = {{c[0], c[1]}};
  }
}

// Which tile of queries and which head a block has; the longest ones first.
struct QueryTile {
  int64_t b, h;
  int tile, first;  // first: row of its first place

  RWKV_DEVICE explicit QueryTile(const AttentionTiles& of)
      : b(block_index() / of.heads % of.batch),
        h(block_index() % of.heads),
        tile(static_cast<int>(of.end_tile() - 1 - block_index() / of.heads / of.batch)),
        first(static_cast<int>(of.row_of(tile))) {}

  // Blocks of all of them.
  static int64_t count(const AttentionTiles& of) {
    return (of.end_tile() - of.tile_of(of.left)) * of.batch * of.heads;
  }
  RWKV_DEVICE bool has(const AttentionTiles& of, int row) const {
    return row >= of.left && row < of.rows();
  }
  // The first tile of keys that any of its queries sees. The same on each thread of a warp.
  RWKV_DEVICE int first_key_tile(const AttentionTiles& of) const {
    uint32_t back = 0;  // rows before `first`
    for (int i = 0; i < 2; ++i) {
      const int row = first + lane_index() + i * kWarp;
      if (!has(of, row)) continue;
      const int64_t before = first - of.first_seen(b, row);
      if (before > back) back = static_cast<uint32_t>(before);
    }
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const uint32_t other = device::warp_xor_bits(back, mask);
      back = other > back ? other : back;
    }
    return static_cast<int>(of.tile_of(first - static_cast<int64_t>(back)));
  }
};

// What a thread's two queries see.
struct OwnQueries {
  int row[2], from[2];

  RWKV_DEVICE OwnQueries(const AttentionTiles& of, const QueryTile& tile) {
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      row[h] = tile.first + 16 * warp_index() + own_row() + 8 * h;
      from[h] = tile.has(of, row[h]) ? static_cast<int>(of.first_seen(tile.b, row[h])) : row[h] + 1;
    }
  }
  // By the number of an element of a block whose first key is at row `first`.
  RWKV_DEVICE bool see(int first, int n, int h, int e) const {
    const int key = first + 8 * n + own_column() + e;
    return key >= from[h] && key <= row[h];
  }
  RWKV_DEVICE bool there(int h) const { return from[h] <= row[h]; }
};

// Goes through the tiles of keys that a tile of queries sees, from the first to its own:
// take(pair, row of the tile's first place).
template <int N, class Take>
RWKV_DEVICE void each_key_tile(const AttentionRows<Bf16>& in, const QueryTile& own,
                               TilePair<N> (&room)[2], const Take& take) {
  const AttentionTiles& of = in.of;
  const int64_t kh = own.h / of.group();
  const int begin = own.first_key_tile(of);
  const auto fetch = [&](int tile) {
    room[(tile - begin) % 2].fetch(static_cast<int>(of.row_of(tile)), in.k,
                                   [&](int row, const Bf16*& k, const Bf16*& v) {
                                     if (row < 0 || row >= of.rows()) return false;
                                     k = in.key(own.b, row, kh);
                                     v = in.value(own.b, row, kh);
                                     return true;
                                   });
    device::end_copy_group();
  };
  fetch(begin);
  for (int tile = begin; tile <= own.tile; ++tile) {
    if (tile < own.tile) {
      fetch(tile + 1);
      device::wait_copies<1>();
    } else {
      device::wait_copies<0>();
    }
    device::sync_block();
    take(room[(tile - begin) % 2], static_cast<int>(of.row_of(tile)));
    device::sync_block();
  }
}

template <int N>
struct AttentionTileForward {
  static constexpr int kBlockThreads = kThreads, kBlocksPerSm = N == 64 ? 3 : 2;
  using Layout = RowsOf<N>;

  AttentionRows<Bf16> in;
  Bf16* y;
  float* lse;

  struct Room {
    TilePair<N> tiles[2];
  };
  // Running softmax of two queries.
  struct Running {
    float largest[2], total[2];
    Sums sum[N / 16];
  };

  RWKV_DEVICE void operator()() const {
    Room& room = as<Room>(device::shared_memory());
    const AttentionTiles& of = in.of;
    const QueryTile own(of);
    const OwnQueries queries(of, own);
    Fragment q[N / 16];
    read_rows<N>(
        [&](int r) {
          const int row = own.first + 16 * warp_index() + r;
          return own.has(of, row) ? in.q + of.place_in(own.b, row, own.h, of.heads) : nullptr;
        },
        q);
    Running state;
    RWKV_UNROLL
    for (int i = 0; i < N / 16; ++i) state.sum[i] = zero_sums();
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) state.largest[h] = -HUGE_VALF, state.total[h] = 0;
    each_key_tile<N>(in, own, room.tiles, [&](const TilePair<N>& tile, int first) {
      take(queries, q, tile, first, state);
    });
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      if (!queries.there(h)) continue;
      const int64_t at = of.place_in(own.b, queries.row[h], own.h, of.heads);
      write_row<N>(state.sum, h, 1 / state.total[h], y + at);
      if (own_column() == 0) lse[at / N] = state.largest[h] + logf(state.total[h]);
    }
  }

 private:
  RWKV_DEVICE void take(const OwnQueries& queries, const Fragment (&q)[N / 16],
                        const TilePair<N>& tile, int first, Running& state) const {
    Sums p[kTileRows / 16];
    RWKV_UNROLL
    for (int j = 0; j < kTileRows / 16; ++j) {
      p[j] = zero_sums();
      RWKV_UNROLL
      for (int i = 0; i < N / 16; ++i) {
        add_product(p[j], q[i], load_right<Layout>(tile.x, 16 * j, 16 * i));
      }
    }
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) weigh(queries, first, h, p, state);
    RWKV_UNROLL
    for (int j = 0; j < kTileRows / 16; ++j) {
      const Fragment weights = rounded(p[j]);
      RWKV_UNROLL
      for (int i = 0; i < N / 16; ++i) {
        add_product(state.sum[i], weights, load_right_transposed<Layout>(tile.y, 16 * j, 16 * i));
      }
    }
  }

  // Scores of one of the two queries to exp(score - largest).
  RWKV_DEVICE void weigh(const OwnQueries& queries, int first, int h, Sums (&p)[kTileRows / 16],
                         Running& state) const {
    float highest = -HUGE_VALF, add = 0;
    RWKV_UNROLL
    for (int i = 0; i < kTileRows / 4; ++i) {
      const int j = i / 4, n = i / 2 % 2, e = i % 2;
      float& x = p[j].c[n][2 * h + e];
      x = queries.see(first + 16 * j, n, h, e) ? x * in.of.scale : -HUGE_VALF;
      highest = x > highest ? x : highest;
    }
    RWKV_UNROLL
    for (int mask = 1; mask < 4; mask *= 2) {
      const float other = device::warp_xor(highest, mask);
      highest = other > highest ? other : highest;
    }
    const float now = highest > state.largest[h] ? highest : state.largest[h];
    const float base = now == -HUGE_VALF ? 0 : now;  // it has seen nothing yet
    const float shrink = fast_exp(state.largest[h] - base);
    state.largest[h] = now;
    RWKV_UNROLL
    for (int i = 0; i < kTileRows / 4; ++i) {
      float& x = p[i / 4].c[i / 2 % 2][2 * h + i % 2];
      x = fast_exp(x - base);
      add += x;
    }
    RWKV_UNROLL
    for (int mask = 1; mask < 4; mask *= 2) add += device::warp_xor(add, mask);
    state.total[h] = state.total[h] * shrink + add;
    RWKV_UNROLL
    for (int i = 0; i < N / 8; ++i) {
      state.sum[i / 2].c[i % 2][2 * h] *= shrink;
      state.sum[i / 2].c[i % 2][2 * h + 1] *= shrink;
    }
  }
};

template <int N>
void attention_tiles_forward(const Stream& stream, const AttentionForward& op) {
  using Kernel = AttentionTileForward<N>;
  const AttentionRows<Bf16> rows(op.in);
  device::launch(stream, {QueryTile::count(rows.of), kThreads, sizeof(typename Kernel::Room)},
                 Kernel{rows, out<Bf16>(op.y), out<float>(op.lse)});
}

}  // namespace rwkv::cuda
