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
// What runs from chunk to chunk is the adjoint: a step per chunk by four warps, of which warp i has
// columns 16 i ... of dU, dZ, U, dV and rows of G; it also scales the next chunk's operands and
// makes its blocks. The gradients of the operands (wkv7_chunk_gradients.h) need a chunk's U, dZ and
// G whole, so a sync stands between. Where shared memory has room for three chunks, four more warps
// take them one chunk behind, while the first four go on; else the same warps do both.
#pragma once

#include "kernels/cuda/wkv7_chunk_gradients.h"

namespace rwkv::cuda {

// kFolded: a block a head: at the start of each tile the adjoint is folded by given maps. Else a
// block a tile and head. kTeams: the gradients have warps of their own.
template <bool kFolded, bool kPlain, bool kTeams>
struct Wkv7ChunkBackKernel {
  static constexpr int kBlockThreads = kTeams ? 2 * kChunkThreads : kChunkThreads;
  static constexpr int kBlocksPerSm =
      device::kMuchSharedMemory ? (kTeams || !kPlain ? 2 : 3) : (kTeams ? 1 : 2);
  // Chunks that are in shared memory: the next, the one that takes its step, and behind it the one
  // whose gradients are made.
  static constexpr int kSlots = kTeams ? 3 : 2, kSteps = kTeams ? 2 : 1;

  Wkv7Input<Bf16> in;
  const std::byte* saved;
  const float* ds_out;
  const float* ends;         // not kFolded: gradients of the states behind tiles 0, 1 ...
  const float *m_in, *c_in;  // kFolded
  float* at_end;             // kFolded: room for a state a head
  const Bf16* dy;
  Bf16* dv;
  ChunkOutputs to;
  float* ds_in;

  struct Room {
    ChunkSlot slots[kSlots];
    ChunkStepped stepped[kSteps];
    std::byte blocks[kBlocks * kBlockBytes];
    std::byte dblocks[kBlocks * kBlockBytes];
    std::byte w_raw[kTokensBytes];  // before a sync; scratch of the inverse behind it
    alignas(16) float w0[kChunkHead];
    float r_k[kChunkHead];

    RWKV_DEVICE ChunkSlot& slot(int chunk) { return slots[chunk % kSlots]; }
    RWKV_DEVICE ChunkStepped& step(int chunk) { return stepped[chunk % kSteps]; }
  };

  RWKV_DEVICE void operator()() const {
    Room& room = as<Room>(device::shared_memory());
    const int64_t heads = in.batch * in.heads, bh = block_index() % heads;
    const int64_t tile = kFolded ? in.tiles - 1 : block_index() / heads;
    const HeadTokens head = kFolded ? HeadTokens(in, bh, 0, in.tokens)
                                    : HeadTokens(in, bh, tile * in.tile, in.tile_end(tile));
    if (kTeams && warp_index() >= kTeamWarps) return follow(room, head);
    Sums adjoint[4];
    keep_head_row(in.w0, bh % in.heads, room.w0);
    keep_head_row(to.r_k, bh % in.heads, room.r_k);
    begin(bh, tile, adjoint);
    run(room, head, bh, adjoint);
    if (!kPlain && !kFolded && tile == 0 && in.handed == 0) add_handed(bh, adjoint);
    if (ds_in != nullptr && (kFolded || tile == 0)) write_state(adjoint, ds_in + square(bh, 0));
  }

 private:
  using Gradients = ChunkGradients<kPlain>;

  RWKV_DEVICE void begin(int64_t bh, int64_t tile, Sums (&adjoint)[4]) const {
    const float* from = ds_out == nullptr ? nullptr : ds_out + square(bh, 0);
    if (!kPlain && in.overlaps()) from = nullptr;
    if (tile + 1 < in.tiles) from = ends + square(bh, tile);
    read_state(from, adjoint);
  }

  // Chunk c takes its step; the one that follows is c - 1.
  RWKV_DEVICE void run(Room& room, const HeadTokens& head, int64_t bh, Sums (&adjoint)[4]) const {
    Fragment dv_before{};  // what the step adds to, read a chunk ahead
    for (int c = head.chunks(); c >= 0; --c) {
      const bool runs = c < head.chunks();
      const bool follows = c > 0;
      if (!kTeams) device::sync_block();  // gradients are made of what is fetched over
      int32_t start = 0;
      if (follows) start = fetch(room, head, c - 1);
      if (!kPlain && runs && c == head.handed) add_handed(bh, adjoint);
      if (kFolded && runs) keep_tile_end(bh, c, head.chunks(), adjoint);
      if (runs) step(room, head, c, dv_before, adjoint);
      if (kFolded && runs) fold_tile_start(bh, c, adjoint);
      device::wait_copies<1>();
      device::sync_team(0);
      if (follows) {
        dv_before = read_tokens(head.own(c - 1), dv);
        scale(room, head, c - 1, start);
      }
      if constexpr (kTeams) {
        device::sync_team(0);
        if (follows) make_next_blocks(room, c - 1);
        device::wait_copies<0>();
        device::sync_block();
      } else {
        device::wait_copies<0>();
        device::sync_block();
        Gradients g;
        if (runs) make_gradient_blocks(room, head, c, g);
        if (follows) make_next_blocks(room, c - 1);
        if (runs) start_gradients(room, c, g);
        device::sync_block();
        if (runs) finish_gradients(room, head, c, g);
      }
    }
  }

  // One chunk behind `run`.
  RWKV_DEVICE void follow(Room& room, const HeadTokens& head) const {
    const int chunks = head.chunks();
    for (int c = chunks; c >= -1; --c) {
      if (c + 1 < chunks) gradients(room, head, c + 1);
      if (c >= 0) device::sync_block();
    }
  }
  RWKV_DEVICE void gradients(Room& room, const HeadTokens& head, int c) const {
    Gradients g;
    make_gradient_blocks(room, head, c, g);
    start_gradients(room, c, g);
    device::sync_team(1);
    finish_gradients(room, head, c, g);
  }

  RWKV_DEVICE static void make_next_blocks(Room& room, int c) {
    make_blocks<true, true>(room.slot(c).scaled, documents(room, c), room.w_raw, room.blocks);
  }
  RWKV_DEVICE void make_gradient_blocks(Room& room, const HeadTokens& head, int c,
                                        Gradients& g) const {
    g.fetch(head.own(c), to);
    Gradients::make_blocks(room.slot(c), room.step(c), documents(room, c), room.dblocks);
  }
  RWKV_DEVICE static void start_gradients(Room& room, int c, Gradients& g) {
    g.start(room.slot(c), room.step(c), documents(room, c));
  }
  RWKV_DEVICE void finish_gradients(Room& room, const HeadTokens& head, int c, Gradients& g) const {
    g.finish(room.slot(c), room.dblocks, room.w0, room.r_k, head.own(c), to);
  }

  RWKV_DEVICE int64_t square(int64_t bh, int64_t tile) const {
    return (tile * in.batch * in.heads + bh) * kChunkSquare;
  }
  RWKV_DEVICE static Documents<kPlain> documents(Room& room, int c) {
    return {kPlain ? 0u : room.slot(c).starts[team_warp()]};
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
  RWKV_DEVICE int32_t fetch(Room& room, const HeadTokens& head, int c) const {
    const OwnTokens tokens = head.own(c);
    ChunkSlot& slot = room.slot(c);
    fetch_tokens(tokens, in.r, slot.scaled + kR * kTokensBytes);
    fetch_tokens(tokens, in.k, slot.scaled + kK * kTokensBytes);
    fetch_tokens(tokens, in.a, slot.scaled + kA * kTokensBytes);
    fetch_tokens(tokens, in.b, slot.scaled + kB * kTokensBytes);
    fetch_tokens(tokens, in.w_raw, room.w_raw);
    device::end_copy_group();
    fetch_tokens(tokens, in.v, slot.v);
    fetch_tokens(tokens, dy, slot.dy);
    const std::byte* from = saved + (head.saved + c) * kChunkStateBytes;
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = own_band() * Blocks64::kRowBytes + (i * kWarp + lane_index()) * 16;
      device::copy_async(slot.state + at, from + at, true);
    }
    device::end_copy_group();
    return kPlain ? 0 : own_start(in, head, c);
  }

  RWKV_DEVICE static void scale(Room& room, const HeadTokens& head, int c, int32_t start) {
    ChunkSlot& slot = room.slot(c);
    if (!kPlain) keep_starts(start, slot.starts);
    const Gammas g =
        scale_operands<true, true>(slot.scaled, room.w_raw, room.w0, head.own(c).count);
    RWKV_UNROLL
    for (int t = 0; t < 2; ++t) {
      const int row = lane_index() / 4 * 2 + t;
      const int column = own_band() + lane_index() % 4 * 4;
      as<Floats4>(slot.gamma + Floats64::offset(row, column)) = {
          {g.after[t][0], g.after[t][1], g.after[t][2], g.after[t][3]}};
    }
  }

  // U of the warp's columns, transposed.
  RWKV_DEVICE static Fragment removed_values(Room& room, int c) {
    const int own = own_band();
    const ChunkSlot& slot = room.slot(c);
    Sums z = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(z, load_block<Blocks64>(slot.state, own, 16 * j),
                  load_right<Rows64>(slot.scaled + kA * kTokensBytes, 0, 16 * j));
    }
    documents(room, c).first_columns(z);
    add_product(z, load_transposed<Rows64>(slot.v, 0, own),
                load_right<Rows16>(room.blocks + kAk * kBlockBytes));
    return times_inverse<true>(z, room.blocks);
  }

  // Through the recurrence, the warp's rows of G; dv.
  RWKV_DEVICE void step(Room& room, const HeadTokens& head, int c, const Fragment& old,
                        Sums (&adjoint)[4]) const {
    const int own = own_band();
    const ChunkSlot& slot = room.slot(c);
    ChunkStepped& stepped = room.step(c);
    const std::byte *scaled = slot.scaled, *blocks = room.blocks;
    const OwnTokens tokens = head.own(c);
    store_block<Rows64>(stepped.u, 0, own, transposed(removed_values(room, c)));
    Fragment behind[4];
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      RWKV_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int n = i / 4, column = 16 * j + 8 * n + own_column() + i % 2;
        adjoint[j].c[n][i % 4] *= as<float>(slot.gamma + Floats64::offset(kChunk - 1, column));
      }
      behind[j] = rounded(adjoint[j]);
      store_block<Blocks64>(stepped.adjoint, own, 16 * j, behind[j]);
    }
    const Fragment dy_own = load_transposed<Rows64>(slot.dy, 0, own);
    Sums du = zero_sums(), values = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(du, behind[j], load_right<Rows64>(scaled + kB * kTokensBytes, 0, 16 * j));
      add_product(values, load_block<Rows64>(scaled + kK * kTokensBytes, 0, 16 * j),
                  right(behind[j]));
    }
    const Documents<kPlain> starts = documents(room, c);
    starts.last_columns(du);
    starts.last_rows(values);
    starts.stop(adjoint);
    const Fragment dz_own = add_outputs(scaled, blocks, starts, dy_own, du, adjoint);
    store_block<Rows64>(stepped.dz, 0, own, transposed(dz_own));
    add_product(values, load_transposed<Rows16>(blocks + kRk * kBlockBytes), right(dy_own));
    add_product(values, load_transposed<Rows16>(blocks + kAk * kBlockBytes), right(dz_own));
    write_tokens(rounded_sum(values, old), tokens, dv);
  }
};

}  // namespace rwkv::cuda
