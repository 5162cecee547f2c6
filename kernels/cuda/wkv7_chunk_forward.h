// Chunks of 16 tokens from the first to the last (wkv7_chunk.h). Per chunk, with S the state before
// it:
//   U = M (A~ S^T + A_ak V),  Y = R~ S^T + A_rk V + A_rb U,  S <- (S + V^T K~ + U^T B~) diag(gamma)
// with the decay of the whole chunk. Rows of S do not mix: warp i keeps rows 16 i ... 16 i + 15 in
// registers and needs only its columns of V. What does not depend on the state is done ahead by
// four warps more: while chunk c takes its step, they scale the operands of c + 1 and make its
// blocks, and those of c + 2 are on their way.
#pragma once

#include "kernels/cuda/wkv7_chunk.h"

namespace rwkv::cuda {

enum class ChunkWay {
  kForward,  // a block a tile and head
  kFolded,   // a block a head: at the end of each tile the state is folded by given maps
  kMap,      // of each tile and head a block for B, which starts from zero, and one for M, which
             // starts from the identity and has no values; no y
  kAdjoint,  // a block a tile and head: what its outputs' gradient gives that of the state before
};

// What a block takes on, and where it leaves what it ends with.
template <ChunkWay kWay, bool kPlain>
struct Wkv7ChunkWayKernel {
  static constexpr int kBlockThreads = 2 * kChunkThreads;
  static constexpr int kBlocksPerSm =
      device::kThreeTeamBlocks && kPlain && kWay != ChunkWay::kFolded ? 3 : 2;
  static constexpr bool kBack = kWay == ChunkWay::kAdjoint;
  // What is read: maps have no outputs, and the adjoint's way no values.
  static constexpr bool kOfR = kWay != ChunkWay::kMap, kOfK = !kBack;

  Wkv7Input<Bf16> in;
  int64_t first;             // kMap, kAdjoint: tile of the first blocks
  const float* s_in;         // (B, H, N, N); nullptr: zero. kAdjoint: ds_out before an overlap
  const float* edges;        // kForward: states before tiles 1, 2 ...
  const float *m_in, *b_in;  // kFolded
  float* at_start;           // kFolded: room for a state a head
  const Bf16* dy;            // kAdjoint
  Bf16* y;
  float* s_out;  // kForward, kFolded: behind the last tile; kMap: B, kAdjoint: C, of all tiles
  float* m;      // kMap
  bool both;     // kMap: else M alone
  std::byte* saved;

  // In shared memory.
  static constexpr int kSlots = 3;
  struct Slot {
    std::byte scaled[kScaled * kTokensBytes];  // r, k, a, b until they are scaled in place
    float decay[kChunkHead];
    uint32_t starts[kTeamWarps];  // for each warp
  };
  struct Room {
    Slot slots[kSlots];
    std::byte w_raw[2][kTokensBytes];
    std::byte v[2][kTokensBytes];
    std::byte blocks[2][kBlocks * kBlockBytes];
    std::byte scratch[kInverseBytes];
    alignas(16) float w0[kChunkHead];
  };

  RWKV_DEVICE void operator()() const {
    Room& room = as<Room>(device::shared_memory());
    if (warp_index() >= kTeamWarps) {
      const Place place = this_block();
      keep_head_row(in.w0, place.bh % in.heads, room.w0);  // a sync comes before it is read
      return prepare(room, tokens_of(place));
    }
    Sums state[4];
    {
      const Place place = this_block();
      begin(place, state);
      run(room, tokens_of(place), place.of_map, state);
    }
    finish(this_block(), state);
  }

 private:
  // Looked up again where it is needed: registers are few while chunks run.
  struct Place {
    int64_t bh, tile;
    bool of_map;
  };
  RWKV_DEVICE Place this_block() const {
    const int64_t heads = in.batch * in.heads, maps = kWay == ChunkWay::kMap && both ? 2 : 1;
    const int64_t block = device::opaque(block_index()), index = block / maps;
    const bool of_map = kWay == ChunkWay::kMap && (!both || block % 2 != 0);
    return {index % heads, first + index / heads, of_map};
  }
  RWKV_DEVICE HeadTokens tokens_of(const Place& place) const {
    if (kWay == ChunkWay::kFolded) return HeadTokens(in, place.bh, 0, in.tokens);
    return HeadTokens(in, place.bh, place.tile * in.tile, end_of(place.tile));
  }
  RWKV_DEVICE int64_t end_of(int64_t tile) const {
    const int64_t end = in.tile_end(tile);
    return !kPlain && kWay == ChunkWay::kMap && end > in.handed ? in.handed : end;
  }
  RWKV_DEVICE int64_t square(int64_t bh, int64_t tile) const {
    return (tile * in.batch * in.heads + bh) * kChunkSquare;
  }

  RWKV_DEVICE void begin(const Place& place, Sums (&state)[4]) const {
    if (place.of_map) return set_identity(state);
    const bool forward = kWay == ChunkWay::kForward || kWay == ChunkWay::kFolded;
    const float* from = !forward || s_in == nullptr ? nullptr : s_in + square(place.bh, 0);
    if (kWay == ChunkWay::kForward && place.tile > 0) {
      from = edges + square(place.bh, place.tile - 1);
    }
    read_state(from, state);
  }

  RWKV_DEVICE void finish(const Place& place, const Sums (&state)[4]) const {
    const bool each = kWay == ChunkWay::kMap || kWay == ChunkWay::kAdjoint;
    const bool last = kWay == ChunkWay::kFolded || place.tile + 1 == in.tiles;
    float* to = place.of_map ? m : s_out;
    if (to == nullptr || !(each || last)) return;
    write_state(state, to + square(place.bh, each ? place.tile : 0));
  }

  // Chunks in the order of the way: the i-th, its slot and its documents.
  RWKV_DEVICE static int chunk_at(int i, int chunks) { return kBack ? chunks - 1 - i : i; }
  RWKV_DEVICE static Slot& slot(Room& room, int i) { return room.slots[i % kSlots]; }
  RWKV_DEVICE static Documents<kPlain> documents(const Slot& slot) {
    return {kPlain ? 0u : slot.starts[team_warp()]};
  }

  // Steps; what comes next is on its way.
  RWKV_DEVICE void run(Room& room, const HeadTokens& head, bool of_map, Sums (&state)[4]) const {
    const int chunks = head.chunks();
    for (int i = -2; i < chunks; ++i) {
      const int32_t start = fetch(room, head, i + 2, i + 1);
      if (i >= 0) {
        if (kWay == ChunkWay::kFolded) keep_tile_start(i, state);
        if constexpr (kBack) {
          const bool joins = !kPlain && s_in != nullptr && chunk_at(i, chunks) == head.handed;
          if (joins) add_state(s_in + square(this_block().bh, 0), state);
          step_back(room, i, state);
        } else {
          step(room, head, i, of_map, state);
        }
        if (kWay == ChunkWay::kFolded) fold_tile_end(i, chunks, state);
      }
      if (!kPlain) keep_starts(start, slot(room, i + 2).starts);
      device::wait_copies<0>();
      device::sync_block();
    }
  }
  // One chunk ahead of the steps.
  RWKV_DEVICE void prepare(Room& room, const HeadTokens& head) const {
    const int chunks = head.chunks();
    for (int i = -2; i < chunks; ++i) {
      if (i + 1 >= 0 && i + 1 < chunks) {
        scale(room, head, i + 1);
        device::sync_team(1);
        const Slot& next = slot(room, i + 1);
        make_blocks<kOfR, kOfK>(next.scaled, documents(next), room.scratch,
                                room.blocks[(i + 1) % 2]);
      }
      device::sync_block();
    }
  }

  RWKV_DEVICE void keep_tile_start(int chunk, const Sums (&state)[4]) const {
    if (chunk * kChunk % in.tile == 0) write_state(state, at_start + square(this_block().bh, 0));
  }
  RWKV_DEVICE void fold_tile_end(int chunk, int chunks, Sums (&state)[4]) const {
    const int64_t tile = chunk * kChunk / in.tile;
    const bool ends = chunk + 1 == chunks || (chunk + 1) * kChunk % in.tile == 0;
    if (!ends || (tile + 1 == in.tiles && s_out == nullptr)) return;
    if (tile == 0 && s_in == nullptr) return;
    device::sync_warp();  // a row's other elements are its neighbours'
    const int64_t bh = this_block().bh;
    fold_state<false>(at_start + square(bh, 0), m_in + square(bh, tile), b_in + square(bh, tile),
                      state);
    device::sync_warp();
  }

  RWKV_DEVICE static void set_identity(Sums (&state)[4]) {
    RWKV_UNROLL
    for (int i = 0; i < 32; ++i) {
      const int j = i / 8, n = i / 4 % 2, h = i / 2 % 2, e = i % 2;
      const bool same = own_band() + own_row() + 8 * h == 16 * j + 8 * n + own_column() + e;
      state[j].c[n][2 * h + e] = same ? 1.0f : 0.0f;
    }
  }

  // Operands of one chunk and values of another, by their place in the way. Returns own_start of
  // the operands' chunk.
  RWKV_DEVICE int32_t fetch(Room& room, const HeadTokens& head, int operands, int values) const {
    const int chunks = head.chunks();
    int32_t start = 0;
    if (operands < chunks) {
      const OwnTokens own = head.own(chunk_at(operands, chunks));
      std::byte* to = slot(room, operands).scaled;
      if (kOfR) fetch_tokens(own, in.r, to + kR * kTokensBytes);
      if (kOfK) fetch_tokens(own, in.k, to + kK * kTokensBytes);
      fetch_tokens(own, in.a, to + kA * kTokensBytes);
      fetch_tokens(own, in.b, to + kB * kTokensBytes);
      fetch_tokens(own, in.w_raw, room.w_raw[operands % 2]);
      if (!kPlain) start = own_start(in, head, chunk_at(operands, chunks));
    }
    if (values >= 0 && values < chunks) {
      fetch_tokens(head.own(chunk_at(values, chunks)), kBack ? dy : in.v, room.v[values % 2]);
    }
    device::end_copy_group();
    return start;
  }

  RWKV_DEVICE static void scale(Room& room, const HeadTokens& head, int i) {
    Slot& own = slot(room, i);
    const int count = head.own(chunk_at(i, head.chunks())).count;
    const Gammas g = scale_operands<kOfR, kOfK>(own.scaled, room.w_raw[i % 2], room.w0, count);
    if (lane_index() / 4 < 7) return;
    const int column = own_band() + lane_index() % 4 * 4;
    *reinterpret_cast<Floats4*>(&own.decay[column]) = {
        {g.after[1][0], g.after[1][1], g.after[1][2], g.after[1][3]}};
  }

  RWKV_DEVICE void step(Room& room, const HeadTokens& head, int c, bool of_map,
                        Sums (&state)[4]) const {
    constexpr bool kMap = kWay == ChunkWay::kMap;
    const Slot& own = slot(room, c);
    const std::byte *scaled = own.scaled, *blocks = room.blocks[c % 2];
    const Documents<kPlain> tokens = documents(own);
    if (!kMap && saved != nullptr) {
      std::byte* to = saved + (head.saved + c) * kChunkStateBytes;
      RWKV_UNROLL
      for (int j = 0; j < 4; ++j) {
        store_block<Blocks64>(to, own_band(), 16 * j, rounded(state[j]));
      }
    }
    Sums z = zero_sums(), out = zero_sums();  // transposed
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      const Fragment before = rounded(state[j]);
      add_product(z, before, load_right<Rows64>(scaled + kA * kTokensBytes, 0, 16 * j));
      if (kMap) continue;
      add_product(out, before, load_right<Rows64>(scaled + kR * kTokensBytes, 0, 16 * j));
    }
    Fragment v = load_transposed<Rows64>(room.v[c % 2], 0, own_band());
    if (of_map) v = {{0, 0, 0, 0}};
    tokens.first_columns(z);
    add_product(z, v, load_right<Rows16>(blocks + kAk * kBlockBytes));
    Fragment removed = times_inverse<true>(z, blocks);
    if (!kMap) {
      tokens.first_columns(out);
      add_product(out, v, load_right<Rows16>(blocks + kRk * kBlockBytes));
      add_product(out, removed, load_right<Rows16>(blocks + kRb * kBlockBytes));
      write_tokens(transposed(rounded(out)), head.own(c), y);
    }
    tokens.stop(state);
    tokens.last_columns(v);
    tokens.last_columns(removed);
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(state[j], v,
                  load_right_transposed<Rows64>(scaled + kK * kTokensBytes, 0, 16 * j));
      add_product(state[j], removed,
                  load_right_transposed<Rows64>(scaled + kB * kTokensBytes, 0, 16 * j));
      scale_columns(state[j], own.decay + 16 * j);
    }
  }

  // The i-th chunk of the way back (wkv7_chunk_backward.h).
  RWKV_DEVICE void step_back(Room& room, int i, Sums (&adjoint)[4]) const {
    const Slot& own = slot(room, i);
    const std::byte *scaled = own.scaled, *blocks = room.blocks[i % 2];
    const Documents<kPlain> tokens = documents(own);
    const Fragment dy_own = load_transposed<Rows64>(room.v[i % 2], 0, own_band());
    Sums du = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      scale_columns(adjoint[j], own.decay + 16 * j);
      add_product(du, rounded(adjoint[j]),
                  load_right<Rows64>(scaled + kB * kTokensBytes, 0, 16 * j));
    }
    tokens.last_columns(du);
    tokens.stop(adjoint);
    add_outputs(scaled, blocks, tokens, dy_own, du, adjoint);
  }

  RWKV_DEVICE static void scale_columns(Sums& s, const float* by) {
    RWKV_UNROLL
    for (int n = 0; n < 2; ++n) {
      const auto d = *reinterpret_cast<const Floats2*>(by + 8 * n + own_column());
      RWKV_UNROLL
      for (int i = 0; i < 4; ++i) s.c[n][i] *= d.x[i % 2];
    }
  }
};

// Everything empty but what the recurrence reads.
template <ChunkWay kWay, bool kPlain>
Wkv7ChunkWayKernel<kWay, kPlain> chunk_way(const Wkv7Input<Bf16>& in) {
  return {in,      0,       nullptr, nullptr, nullptr, nullptr, nullptr,
          nullptr, nullptr, nullptr, nullptr, true,    nullptr};
}
template <class Kernel>
void run_chunks(const Stream& stream, int64_t blocks, const Kernel& kernel) {
  device::launch(stream, {blocks, Kernel::kBlockThreads, sizeof(typename Kernel::Room)}, kernel);
}
// Where memory is what bounds them, two blocks on a multiprocessor are as fast as three, and leave
// a smaller last wave: 1.10 against 1.45 ms for 512 heads of 4096 tokens on an H200
// (docs/measurements/2026-11-27-h100-h200.md). So of 228 KB of shared memory each asks for a third.
template <class Kernel>
void run_whole_heads(const Stream& stream, int64_t blocks, const Kernel& kernel) {
  constexpr int64_t kThird = int64_t{76} << 10, kRoom = sizeof(typename Kernel::Room);
  static_assert(kRoom < kThird);
  const int64_t bytes = device::block_shared_bytes() > 2 * kThird ? kThird : kRoom;
  device::launch(stream, {blocks, Kernel::kBlockThreads, bytes}, kernel);
}

// With maps, tile after tile.
template <bool kPlain>
void wkv7_folded_forward(const Stream& stream, const Wkv7Forward& op) {
  auto kernel = chunk_way<ChunkWay::kFolded, kPlain>(Wkv7Input<Bf16>(op.in));
  const int64_t heads = kernel.in.batch * kernel.in.heads;
  kernel.s_in = in<float>(op.s_in);
  kernel.m_in = in<float>(op.m);
  kernel.b_in = in<float>(op.b);
  kernel.at_start = reinterpret_cast<float*>(device::scratch(stream, heads * kChunkSquare * 4));
  kernel.y = out<Bf16>(op.y);
  kernel.s_out = out<float>(op.s_out);
  kernel.saved = op.s_saved.data;
  run_chunks(stream, heads, kernel);
}

template <bool kPlain>
void wkv7_chunk_map(const Stream& stream, const Wkv7Map& op) {
  auto kernel = chunk_way<ChunkWay::kMap, kPlain>(Wkv7Input<Bf16>(op.in));
  kernel.first = op.first;
  kernel.m = out<float>(op.m);
  kernel.s_out = out<float>(op.b);
  run_chunks(stream, 2 * (op.end - op.first) * kernel.in.batch * kernel.in.heads, kernel);
}

template <bool kPlain>
void wkv7_chunk_map_backward(const Stream& stream, const Wkv7MapBackward& op) {
  auto kernel = chunk_way<ChunkWay::kAdjoint, kPlain>(Wkv7Input<Bf16>(op.in));
  kernel.first = op.first;
  kernel.dy = in<Bf16>(op.dy);
  kernel.s_out = out<float>(op.c);
  run_chunks(stream, (op.end - op.first) * kernel.in.batch * kernel.in.heads, kernel);
}

}  // namespace rwkv::cuda
