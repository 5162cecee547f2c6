// The gradients of attention on tensor cores, in two kernels that need no sums between blocks: one
// has a tile of queries and goes through keys (attention_tile_forward.h), one has a tile of keys
// and goes through queries, from the last on.
#pragma once

#include "kernels/cuda/attention_tile_forward.h"

namespace rwkv::cuda {

template <int N>
struct AttentionTileQueryBack {
  static constexpr int kBlockThreads = kThreads;
  static constexpr int kBlocksPerSm = N == 64 && device::kMuchSharedMemory ? 3 : 2;
  using Layout = RowsOf<N>;

  AttentionRows<Bf16> in;
  const Bf16* dy;
  const float *lse, *delta;
  Bf16* dq;

  struct Room {
    TilePair<N> tiles[2];
  };

  RWKV_DEVICE void operator()() const {
    Room& room = as<Room>(device::shared_memory());
    const AttentionTiles& of = in.of;
    const QueryTile own(of);
    const OwnQueries queries(of, own);
    const auto row_of = [&](const Bf16* tensor) {
      return [&own, &of, tensor](int r) {
        const int row = own.first + 16 * warp_index() + r;
        return own.has(of, row) ? tensor + of.place_in(own.b, row, own.h, of.heads) : nullptr;
      };
    };
    Fragment q[N / 16], d[N / 16];
    read_rows<N>(row_of(in.q), q);
    read_rows<N>(row_of(dy), d);
    float logs[2], deltas[2];
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int64_t at = of.place_in(own.b, queries.row[h], own.h, of.heads) / N;
      logs[h] = queries.there(h) ? lse[at] : 0;
      deltas[h] = queries.there(h) ? delta[at] : 0;
    }
    Sums sum[N / 16];
    RWKV_UNROLL
    for (int i = 0; i < N / 16; ++i) sum[i] = zero_sums();
    each_key_tile<N>(in, own, room.tiles, [&](const TilePair<N>& tile, int first) {
      for (int j = 0; j < kTileRows / 16; ++j) {
        Sums score = zero_sums(), dp = zero_sums();
        RWKV_UNROLL
        for (int i = 0; i < N / 16; ++i) {
          add_product(score, q[i], load_right<Layout>(tile.x, 16 * j, 16 * i));
          add_product(dp, d[i], load_right<Layout>(tile.y, 16 * j, 16 * i));
        }
        RWKV_UNROLL
        for (int i = 0; i < 8; ++i) {
          const int n = i / 4, h = i / 2 % 2, e = i % 2;
          float& x = score.c[n][2 * h + e];
          const bool seen = queries.see(first + 16 * j, n, h, e);
          const float p = seen ? fast_exp(x * of.scale - logs[h]) : 0;
          x = of.scale * p * (dp.c[n][2 * h + e] - deltas[h]);
        }
        const Fragment ds = rounded(score);
        RWKV_UNROLL
        for (int i = 0; i < N / 16; ++i) {
          add_product(sum[i], ds, load_right_transposed<Layout>(tile.x, 16 * j, 16 * i));
        }
      }
    });
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      if (!queries.there(h)) continue;
      write_row<N>(sum, h, 1, dq + of.place_in(own.b, queries.row[h], own.h, of.heads));
    }
  }
};

template <int N>
struct AttentionTileKeyBack {
  static constexpr int kBlockThreads = kThreads, kBlocksPerSm = 2;
  using Layout = RowsOf<N>;

  AttentionRows<Bf16> in;
  const Bf16* dy;
  const float *lse, *delta;
  KeyGradients<Bf16> dk, dv;

  // Queries with their dy; of each its lse, its delta and the first row that it sees.
  struct Queries {
    TilePair<N> rows;
    float lse[kTileRows], delta[kTileRows];
    int seen[kTileRows];
  };
  struct Room {
    Queries queries[2];
  };
  // The block's tile of keys.
  struct Own {
    int64_t b, kh;
    int tile, first;

    RWKV_DEVICE int row(int r) const { return first + 16 * warp_index() + r; }
  };
  struct Gradients {
    Sums dk[N / 16], dv[N / 16];
  };

  RWKV_DEVICE void operator()() const {
    Room& room = as<Room>(device::shared_memory());
    const AttentionTiles& of = in.of;
    Own own{block_index() / of.key_heads % of.batch, block_index() % of.key_heads,
            static_cast<int>(of.tile_of(0) + block_index() / of.key_heads / of.batch), 0};
    own.first = static_cast<int>(of.row_of(own.tile));
    const auto there = [&](int r) { return own.row(r) >= 0 && own.row(r) < of.rows(); };
    Fragment k[N / 16], v[N / 16];
    read_rows<N>([&](int r) { return there(r) ? in.key(own.b, own.row(r), own.kh) : nullptr; }, k);
    read_rows<N>([&](int r) { return there(r) ? in.value(own.b, own.row(r), own.kh) : nullptr; },
                 v);
    Gradients sums;
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int r = own_row() + 8 * h;
      start(there(r), dk, own, own.row(r), h, sums.dk);
      start(there(r), dv, own, own.row(r), h, sums.dv);
    }
    each_query_tile(room, own, [&](const Queries& queries, int first) {
      for (int j = 0; j < kTileRows / 16; ++j) take(queries, first, 16 * j, own, k, v, sums);
    });
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int r = own_row() + 8 * h;
      if (!there(r)) continue;
      finish(dk, own, own.row(r), h, sums.dk);
      finish(dv, own, own.row(r), h, sums.dv);
    }
  }

 private:
  // From the last tile that sees these keys to their own, in each the heads of the group.
  template <class Take>
  RWKV_DEVICE void each_query_tile(Room& room, const Own& own, const Take& take) const {
    const AttentionTiles& of = in.of;
    const int first_own = static_cast<int>(of.tile_of(of.left));
    const int high = static_cast<int>(of.last_query_tile(own.tile));
    const int low = own.tile > first_own ? own.tile : first_own;
    const int group = static_cast<int>(of.group());
    const int rounds = high < low ? 0 : (high - low + 1) * group;
    const auto first_of = [&](int round) {
      return static_cast<int>(of.row_of(high - round / group));
    };
    const auto fetch = [&](int round) {
      fetch_queries(own, first_of(round), own.kh * group + round % group, room.queries[round % 2]);
      device::end_copy_group();
    };
    if (rounds > 0) fetch(0);
    for (int round = 0; round < rounds; ++round) {
      if (round + 1 < rounds) {
        fetch(round + 1);
        device::wait_copies<1>();
      } else {
        device::wait_copies<0>();
      }
      device::sync_block();
      take(room.queries[round % 2], first_of(round));
      device::sync_block();
    }
  }

  RWKV_DEVICE void fetch_queries(const Own& own, int first, int64_t h, Queries& to) const {
    const AttentionTiles& of = in.of;
    const auto there = [&](int row) { return row >= of.left && row < of.rows(); };
    to.rows.fetch(first, in.q, [&](int row, const Bf16*& q, const Bf16*& d) {
      if (!there(row)) return false;
      const int64_t at = of.place_in(own.b, row, h, of.heads);
      q = in.q + at;
      d = dy + at;
      return true;
    });
    if (thread_index() >= kTileRows) return;
    const int row = first + thread_index();
    const int64_t at = of.place_in(own.b, row, h, of.heads) / N;
    to.lse[thread_index()] = there(row) ? lse[at] : 0;
    to.delta[thread_index()] = there(row) ? delta[at] : 0;
    to.seen[thread_index()] = there(row) ? static_cast<int>(of.first_seen(own.b, row)) : 0x7fffffff;
  }

  // 16 queries from number `j` of their tile on.
  RWKV_DEVICE void take(const Queries& queries, int first, int j, const Own& own,
                        const Fragment (&k)[N / 16], const Fragment (&v)[N / 16],
                        Gradients& sums) const {
    Sums p = zero_sums(), ds = zero_sums();
    RWKV_UNROLL
    for (int i = 0; i < N / 16; ++i) {
      add_product(p, k[i], load_right<Layout>(queries.rows.x, j, 16 * i));
      add_product(ds, v[i], load_right<Layout>(queries.rows.y, j, 16 * i));
    }
    RWKV_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int n = i / 4, h = i / 2 % 2, e = i % 2, query = j + 8 * n + own_column() + e;
      const int key = own.row(own_row() + 8 * h);
      const bool seen = key >= queries.seen[query] && key <= first + query;
      float &score = p.c[n][2 * h + e], &gradient = ds.c[n][2 * h + e];
      score = seen ? fast_exp(score * in.of.scale - queries.lse[query]) : 0;
      gradient = in.of.scale * score * (gradient - queries.delta[query]);
    }
    const Fragment by_p = rounded(p), by_ds = rounded(ds);
    RWKV_UNROLL
    for (int i = 0; i < N / 16; ++i) {
      add_product(sums.dv[i], by_p, load_right_transposed<Layout>(queries.rows.y, j, 16 * i));
      add_product(sums.dk[i], by_ds, load_right_transposed<Layout>(queries.rows.x, j, 16 * i));
    }
  }

  RWKV_DEVICE void start(bool there, const KeyGradients<Bf16>& d, const Own& own, int64_t row,
                         int h, Sums (&sum)[N / 16]) const {
    const float* from = there ? d.given_at(in.of, own.b, row, own.kh, own_column()) : nullptr;
    RWKV_UNROLL
    for (int i = 0; i < N / 8; ++i) {
      const Floats2 x =
          from == nullptr ? Floats2{{0, 0}} : *reinterpret_cast<const Floats2*>(from + 8 * i);
      sum[i / 2].c[i % 2][2 * h] = x.x[0];
      sum[i / 2].c[i % 2][2 * h + 1] = x.x[1];
    }
  }
  RWKV_DEVICE void finish(const KeyGradients<Bf16>& d, const Own& own, int64_t row, int h,
                          const Sums (&sum)[N / 16]) const {
    const int64_t at = in.of.place_in(own.b, row, own.kh, in.of.key_heads);
    if (row >= in.of.left) return write_row<N>(sum, h, 1, d.own + at);
    if (d.left != nullptr) write_row<N>(sum, h, d.left + at);
  }
};

template <int N>
void attention_tiles_backward(const Stream& stream, const AttentionBackward& op) {
  using Query = AttentionTileQueryBack<N>;
  using Key = AttentionTileKeyBack<N>;
  const AttentionRows<Bf16> rows(op.in);
  const auto *lse = in<float>(op.lse), *delta = in<float>(op.delta);
  device::launch(stream, {QueryTile::count(rows.of), kThreads, sizeof(typename Query::Room)},
                 Query{rows, in<Bf16>(op.dy), lse, delta, out<Bf16>(op.dq)});
  const int64_t tiles = rows.of.end_tile() - rows.of.tile_of(0);
  device::launch(
      stream, {tiles * rows.of.batch * rows.of.key_heads, kThreads, sizeof(typename Key::Room)},
      Key{rows, in<Bf16>(op.dy), lse, delta, KeyGradients<Bf16>(op.dk_right, op.dk_left, op.dk),
          KeyGradients<Bf16>(op.dv_right, op.dv_left, op.dv)});
}

}  // namespace rwkv::cuda
