// Chunks of 16 tokens from the last to the first (wkv7_chunk.h). Per chunk, with S the saved state
// before it, D the decay of the whole chunk and G the gradient of the state behind it, first
// G <- G diag(D), then
//   dU = A_rb^T dY + B~ G^T,  dZ = M^T dU,  dV = A_rk^T dY + K~ G^T + A_ak^T dZ
//   dA_rk, dA_rb = on and below the diagonal of dY V^T, dY U^T
//   dA_ak, dA_ab = below that of dZ V^T, dZ U^T
//   dR~ = dY S + dA_rk K~ + dA_rb B~,      dA~ = dZ S + dA_ak K~ + dA_ab B~
//   dK~ = V G + dA_rk^T R~ + dA_ak^T A~,   dB~ = U G + dA_rb^T R~ + dA_ab^T A~
//   dlog w_s = sum_{t >= s} (R~ dR~ - K~ dK~ - B~ dB~)_t + sum_{t > s} (A~ dA~)_t
//              + columns of S G + sum_t (K~ (V G) + B~ (U G))_t            (products by element)
//   G <- G + dY^T R~ + dZ^T A~
// masked by document as wkv7_chunk.h says; S G counts in a chunk without a start alone.
// R~ ... are the operands as rounded: then what cancels in dlog w cancels to float's precision.
//
// Warp i has columns 16 i ... of dU, dZ, U, dV and rows of G; behind a sync, with all of dZ, U and
// G in shared memory, columns 16 i ... of dR~, dA~, dK~, dB~. Two syncs a chunk: the next chunk's
// operands are scaled before the first and its blocks made before the second.
#pragma once

#include "kernels/cuda/wkv7_chunk.h"

namespace rwkv::cuda {

// kFolded: a block a head: at the start of each tile the adjoint is folded by given maps. Else a
// block a tile and head.
template <bool kFolded, bool kPlain>
struct Wkv7ChunkBackKernel {
  static constexpr int kBlockThreads = kChunkThreads,
                       kBlocksPerSm = device::kMuchSharedMemory ? 3 : 2;

  Wkv7Input<Bf16> in;
  const std::byte* saved;
  const float* ds_out;
  const float* ends;         // not kFolded: gradients of the states behind tiles 0, 1 ...
  const float *m_in, *c_in;  // kFolded
  float* at_end;             // kFolded: room for a state a head
  const Bf16* dy;
  Bf16 *dr, *dk, *dv, *da, *db;
  float *dw_raw, *ds_in;

  // In shared memory. What has two copies is there for a chunk and the next.
  struct Room {
    std::byte scaled[2][kScaled * kTokensBytes];  // r, k, a, b until they are scaled in place
    std::byte gamma[2][kDecaysBytes];
    std::byte v[2][kTokensBytes], dy[2][kTokensBytes];
    std::byte state[2][kSquareBytes];
    std::byte adjoint[kSquareBytes];  // G
    std::byte u[kTokensBytes], dz[kTokensBytes];
    std::byte blocks[kBlocks * kBlockBytes];
    std::byte dblocks[kBlocks * kBlockBytes];
    std::byte w_raw[kDecaysBytes];              // before a sync; scratch of the inverse behind it
    uint32_t starts[2][kChunkThreads / kWarp];  // for each warp
  };

  // Gradients of the scaled operands, the warp's columns, and what all tokens add to dlog w.
  struct Gradients {
    Sums of[kScaled];
    float tail[4];
  };

  RWKV_DEVICE void operator()() const {
    Room& room = as<Room>(device::shared_memory());
    const int64_t heads = in.batch * in.heads, bh = block_index() % heads;
    const int64_t tile = kFolded ? in.tiles - 1 : block_index() / heads;
    const HeadTokens head = kFolded ? HeadTokens(in, bh, 0, in.tokens)
                                    : HeadTokens(in, bh, tile * in.tile, in.tile_end(tile));
    Sums adjoint[4];
    const float* from = ds_out == nullptr ? nullptr : ds_out + square(bh, 0);
    if (!kPlain && in.overlaps()) from = nullptr;
    if (tile + 1 < in.tiles) from = ends + square(bh, tile);
    read_state(from, adjoint);
    // Chunk c; the one that follows is c - 1.
    for (int c = head.chunks(); c >= 0; --c) {
      const int now = c % 2, next = 1 - now;
      const bool runs = c<head.chunks(), follows = c> 0;
      device::wait_copies<0>();
      device::sync_warp();
      int32_t start = 0;
      if (follows) start = fetch(room, head, c - 1, next);
      if (!kPlain && runs && c == head.handed) add_handed(bh, adjoint);
      if (kFolded && runs) keep_tile_end(bh, c, head.chunks(), adjoint);
      if (runs) step(room, head, c, now, adjoint);
      if (kFolded && runs) fold_tile_start(bh, c, adjoint);
      device::wait_copies<1>();
      device::sync_warp();
      if (follows) scale(room, head, c - 1, next, start);
      device::sync_block();
      Gradients g;
      if (runs) make_gradient_blocks(room, now);
      if (follows) make_blocks(room.scaled[next], documents(room, next), room.w_raw, room.blocks);
      if (runs) start_gradients(room, now, g);
      device::sync_block();
      if (runs) finish_gradients(room, head, c, now, g);
    }
    if (!kPlain && !kFolded && tile == 0 && in.handed == 0) add_handed(bh, adjoint);
    if (ds_in != nullptr && (kFolded || tile == 0)) write_state(adjoint, ds_in + square(bh, 0));
  }

 private:
  RWKV_DEVICE int64_t square(int64_t bh, int64_t tile) const {
    return (tile * in.batch * in.heads + bh) * kChunkSquare;
  }
  RWKV_DEVICE static Documents<kPlain> documents(const Room& room, int slot) {
    return {kPlain ? 0u : room.starts[slot][warp_index()]};
  }
  RWKV_DEVICE void add_handed(int64_t bh, Sums (&adjoint)[4]) const {
    if (ds_out != nullptr) add_state(ds_out + square(bh, 0), adjoint);
  }
  RWKV_DEVICE void keep_tile_end(int64_t bh, int c, int chunks, const Sums (&adjoint)[4]) const {
    const bool last = c + 1 == chunks || (c + 1) * kChunk % in.tile == 0;
    if (last) write_state(adjoint, at_end + square(bh, 0));
  }
  RWKV_DEVICE void fold_tile_start(int64_t bh, int c, Sums (&adjoint)[4]) const {
    const int64_t tile = c * kChunk / in.tile;
    if (c * kChunk % in.tile != 0 || (tile == 0 && ds_in == nullptr)) return;
    if (tile + 1 == in.tiles && ds_out == nullptr) return;
    device::sync_warp();  // a row's other elements are its neighbours'
    // The map of an overlap's tile ends where ds_out is of.
    const float* behind = !kPlain && in.overlaps() ? ds_out : at_end;
    fold_state<true>(behind + square(bh, 0), m_in + square(bh, tile), c_in + square(bh, tile),
                     adjoint);
    device::sync_warp();
  }

  // Returns own_start of the chunk.
  RWKV_DEVICE int32_t fetch(Room& room, const HeadTokens& head, int c, int slot) const {
    const OwnTokens tokens = head.own(c);
    fetch_tokens(tokens, in.r, room.scaled[slot] + kR * kTokensBytes);
    fetch_tokens(tokens, in.k, room.scaled[slot] + kK * kTokensBytes);
    fetch_tokens(tokens, in.a, room.scaled[slot] + kA * kTokensBytes);
    fetch_tokens(tokens, in.b, room.scaled[slot] + kB * kTokensBytes);
    fetch_decays(tokens, in.w_raw, room.w_raw);
    device::end_copy_group();
    fetch_tokens(tokens, in.v, room.v[slot]);
    fetch_tokens(tokens, dy, room.dy[slot]);
    const std::byte* from = saved + (head.saved + c) * kChunkStateBytes;
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = 16 * warp_index() * Blocks64::kRowBytes + (i * kWarp + lane_index()) * 16;
      device::copy_async(room.state[slot] + at, from + at, true);
    }
    device::end_copy_group();
    return kPlain ? 0 : own_start(in, head, c);
  }

  RWKV_DEVICE static void scale(Room& room, const HeadTokens& head, int c, int slot,
                                int32_t start) {
    if (!kPlain) room.starts[slot][warp_index()] = device::warp_ballot(start != 0);
    const Gammas g =
        scale_operands(room.scaled[slot], room.w_raw, head.own(c).count, room.scaled[slot]);
    RWKV_UNROLL
    for (int t = 0; t < 2; ++t) {
      const int row = lane_index() / 4 * 2 + t;
      const int column = 16 * warp_index() + lane_index() % 4 * 4;
      as<Floats4>(room.gamma[slot] + Floats64::offset(row, column)) = {
          {g.after[t][0], g.after[t][1], g.after[t][2], g.after[t][3]}};
    }
  }

  // U of the warp's columns, transposed.
  RWKV_DEVICE static Fragment removed_values(const Room& room, int now) {
    const int own = 16 * warp_index();
    Sums z = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(z, load_block<Blocks64>(room.state[now], own, 16 * j),
                  load_right<Rows64>(room.scaled[now] + kA * kTokensBytes, 0, 16 * j));
    }
    documents(room, now).first_columns(z);
    add_product(z, load_transposed<Rows64>(room.v[now], 0, own),
                load_right<Rows16>(room.blocks + kAk * kBlockBytes));
    return times_inverse<true>(z, room.blocks);
  }

  // Through the recurrence, the warp's rows of G; dv.
  RWKV_DEVICE void step(Room& room, const HeadTokens& head, int c, int now,
                        Sums (&adjoint)[4]) const {
    const int own = 16 * warp_index();
    const std::byte *scaled = room.scaled[now], *blocks = room.blocks;
    const OwnTokens tokens = head.own(c);
    const Fragment old = read_tokens(tokens, dv);
    store_block<Rows64>(room.u, 0, own, transposed(removed_values(room, now)));
    Fragment behind[4];
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      RWKV_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int n = i / 4, column = 16 * j + 8 * n + own_column() + i % 2;
        adjoint[j].c[n][i % 4] *= as<float>(room.gamma[now] + Floats64::offset(kChunk - 1, column));
      }
      behind[j] = rounded(adjoint[j]);
      store_block<Blocks64>(room.adjoint, own, 16 * j, behind[j]);
    }
    const Fragment dy_own = load_transposed<Rows64>(room.dy[now], 0, own);
    Sums du = zero_sums(), values = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(du, behind[j], load_right<Rows64>(scaled + kB * kTokensBytes, 0, 16 * j));
      add_product(values, load_block<Rows64>(scaled + kK * kTokensBytes, 0, 16 * j),
                  right(behind[j]));
    }
    const Documents<kPlain> starts = documents(room, now);
    starts.last_columns(du);
    starts.last_rows(values);
    starts.stop(adjoint);
    const Fragment dz_own = add_outputs(scaled, blocks, starts, dy_own, du, adjoint);
    store_block<Rows64>(room.dz, 0, own, transposed(dz_own));
    add_product(values, load_transposed<Rows16>(blocks + kRk * kBlockBytes), right(dy_own));
    add_product(values, load_transposed<Rows16>(blocks + kAk * kBlockBytes), right(dz_own));
    write_tokens(rounded_sum(values, old), tokens, dv);
  }

  RWKV_DEVICE static Fragment of_tokens(const std::byte* tokens, int j) {
    return load_block<Rows64>(tokens, 0, 16 * j);
  }

  // One of dA_ab, dA_ak, dA_rb, dA_rk by each warp, in the places of M, A_ak, A_rb, A_rk.
  RWKV_DEVICE static void make_gradient_blocks(Room& room, int now) {
    const int block = warp_index();
    const bool of_r = block == kRb || block == kRk, with_k = block == kAk || block == kRk;
    const std::byte* left = of_r ? room.dy[now] : room.dz;
    const std::byte* right = with_k ? room.v[now] : room.u;
    Sums s = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(s, of_tokens(left, j), load_right<Rows64>(right, 0, 16 * j));
    }
    s = lower_triangle(s, of_r);
    documents(room, now).same(s);
    store_block<Rows16>(room.dblocks + block * kBlockBytes, 0, 0, rounded(s));
  }

  RWKV_DEVICE static void keep_own_documents(const Documents<kPlain>& tokens, Gradients& g,
                                             float (&columns)[2]) {
    if (tokens.one()) return;
    tokens.first_rows(g.of[kR]);
    tokens.first_rows(g.of[kA]);
    tokens.last_rows(g.of[kK]);
    tokens.last_rows(g.of[kB]);
    columns[0] = columns[1] = 0;
  }

  // What S and G give; the warp's columns.
  RWKV_DEVICE static void start_gradients(const Room& room, int now, Gradients& g) {
    const int own = 16 * warp_index();
    float columns[2] = {0, 0};  // of S G: own_row() and that + 8, this thread's part
    RWKV_UNROLL
    for (int i = 0; i < kScaled; ++i) g.of[i] = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      const RightFragment state = load_right_transposed<Blocks64>(room.state[now], 16 * j, own);
      const RightFragment adjoint = load_right_transposed<Blocks64>(room.adjoint, 16 * j, own);
      add_product(g.of[kR], of_tokens(room.dy[now], j), state);
      add_product(g.of[kA], of_tokens(room.dz, j), state);
      add_product(g.of[kK], of_tokens(room.v[now], j), adjoint);
      add_product(g.of[kB], of_tokens(room.u, j), adjoint);
      RWKV_UNROLL
      for (int i = 0; i < 4; ++i) {
        columns[i / 2] += low_half(state.x[i]) * low_half(adjoint.x[i]) +
                          high_half(state.x[i]) * high_half(adjoint.x[i]);
      }
    }
    keep_own_documents(documents(room, now), g, columns);
    const Fragment k = read_own<Rows64>(room.scaled[now] + kK * kTokensBytes, 0, own);
    const Fragment b = read_own<Rows64>(room.scaled[now] + kB * kTokensBytes, 0, own);
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      columns[h] += device::warp_xor(columns[h], 1);
      columns[h] += device::warp_xor(columns[h], 2);
    }
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int n = i / 2, e = i % 2;
      float sum = 0;
      RWKV_UNROLL
      for (int h = 0; h < 2; ++h) {
        sum += half(k, n, h, e) * g.of[kK].c[n][2 * h + e] +
               half(b, n, h, e) * g.of[kB].c[n][2 * h + e];
      }
      for (int mask = 4; mask < kWarp; mask *= 2) sum += device::warp_xor(sum, mask);
      g.tail[i] = sum + device::warp_read(columns[n], (own_column() + e) * 4);
    }
  }

  // sigmoid (1 - sigmoid), to relative precision where one of them is nearly 1.
  RWKV_DEVICE static float sigmoid_slope(float x) {
    const float e = fast_exp(x < 0 ? x : -x), larger = device::fast_inverse(1 + e);
    return e * larger * larger;
  }
  RWKV_DEVICE static float half(const Fragment& f, int n, int h, int e) {
    return e == 0 ? low_half(f.x[2 * n + h]) : high_half(f.x[2 * n + h]);
  }

  RWKV_DEVICE void finish_gradients(const Room& room, const HeadTokens& head, int c, int now,
                                    Gradients& g) const {
    const int own = 16 * warp_index();
    const std::byte *scaled = room.scaled[now], *dblocks = room.dblocks;
    {
      const RightFragment k = load_right_transposed<Rows64>(scaled + kK * kTokensBytes, 0, own);
      const RightFragment b = load_right_transposed<Rows64>(scaled + kB * kTokensBytes, 0, own);
      add_product(g.of[kR], load_block<Rows16>(dblocks + kRk * kBlockBytes), k);
      add_product(g.of[kR], load_block<Rows16>(dblocks + kRb * kBlockBytes), b);
      add_product(g.of[kA], load_block<Rows16>(dblocks + kAk * kBlockBytes), k);
      add_product(g.of[kA], load_block<Rows16>(dblocks + kM * kBlockBytes), b);
    }
    {
      const RightFragment r = load_right_transposed<Rows64>(scaled + kR * kTokensBytes, 0, own);
      const RightFragment a = load_right_transposed<Rows64>(scaled + kA * kTokensBytes, 0, own);
      add_product(g.of[kK], load_transposed<Rows16>(dblocks + kRk * kBlockBytes), r);
      add_product(g.of[kK], load_transposed<Rows16>(dblocks + kAk * kBlockBytes), a);
      add_product(g.of[kB], load_transposed<Rows16>(dblocks + kRb * kBlockBytes), r);
      add_product(g.of[kB], load_transposed<Rows16>(dblocks + kM * kBlockBytes), a);
    }
    const OwnTokens tokens = head.own(c);
    const Fragment old_r = read_tokens(tokens, dr);
    const Fragment old_k = read_tokens(tokens, dk);
    write_decay_gradient(scaled, tokens, g);
    unscale(room.gamma[now], g);
    write_tokens(rounded_sum(g.of[kR], old_r), tokens, dr);
    write_tokens(rounded_sum(g.of[kK], old_k), tokens, dk);
    write_tokens(rounded(g.of[kA]), tokens, da);
    write_tokens(rounded(g.of[kB]), tokens, db);
  }

  RWKV_DEVICE void write_decay_gradient(const std::byte* scaled, const OwnTokens& tokens,
                                        const Gradients& g) const {
    const int own = 16 * warp_index(), row = own_row();
    const Fragment r = read_own<Rows64>(scaled + kR * kTokensBytes, 0, own);
    const Fragment k = read_own<Rows64>(scaled + kK * kTokensBytes, 0, own);
    const Fragment a = read_own<Rows64>(scaled + kA * kTokensBytes, 0, own);
    const Fragment b = read_own<Rows64>(scaled + kB * kTokensBytes, 0, own);
    RWKV_UNROLL
    for (int n = 0; n < 2; ++n) {
      float at[2][2], from[2][2];  // A~ dA~, and the sum from a token on; [half of the rows][e]
      RWKV_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int h = i / 2, e = i % 2;
        at[h][e] = half(a, n, h, e) * g.of[kA].c[n][i];
        from[h][e] = half(r, n, h, e) * g.of[kR].c[n][i] - half(k, n, h, e) * g.of[kK].c[n][i] -
                     half(b, n, h, e) * g.of[kB].c[n][i] + at[h][e];
        RWKV_UNROLL
        for (int step = 1; step < 8; step *= 2) {
          const float other =
              device::warp_read(from[h][e], (lane_index() + 4 * step) & (kWarp - 1));
          if (row + step < 8) from[h][e] += other;
        }
      }
      RWKV_UNROLL
      for (int e = 0; e < 2; ++e) from[0][e] += device::warp_read(from[1][e], lane_index() % 4);
      RWKV_UNROLL
      for (int h = 0; h < 2; ++h) {
        if (row + 8 * h >= tokens.count) continue;
        const int64_t place = tokens.at(row + 8 * h, 8 * n + own_column());
        const auto w = *reinterpret_cast<const Floats2*>(in.w_raw + place);
        Floats2 result;
        RWKV_UNROLL
        for (int e = 0; e < 2; ++e) {
          result.x[e] = -static_cast<float>(kDecayScale) * sigmoid_slope(w.x[e]) *
                        (from[h][e] - at[h][e] + g.tail[2 * n + e]);
        }
        *reinterpret_cast<Floats2*>(dw_raw + place) = result;
      }
    }
  }

  // To the gradients of r, k, a, b.
  RWKV_DEVICE static void unscale(const std::byte* gamma, Gradients& g) {
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int n = i / 2, h = i % 2, row = own_row() + 8 * h;
      const int column = 16 * warp_index() + 8 * n + own_column();
      const auto after = as<Floats2>(gamma + Floats64::offset(row, column));
      const auto before =
          row == 0 ? Floats2{{1, 1}} : as<Floats2>(gamma + Floats64::offset(row - 1, column));
      RWKV_UNROLL
      for (int e = 0; e < 2; ++e) {
        const float inverse = device::fast_inverse(after.x[e]);
        g.of[kR].c[n][2 * h + e] *= after.x[e];
        g.of[kA].c[n][2 * h + e] *= before.x[e];
        g.of[kK].c[n][2 * h + e] *= inverse;
        g.of[kB].c[n][2 * h + e] *= inverse;
      }
    }
  }
};

}  // namespace rwkv::cuda
