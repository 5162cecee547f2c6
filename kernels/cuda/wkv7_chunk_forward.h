// Chunks of 16 tokens from the first to the last (wkv7_chunk.h). Per chunk, with S the state before
// it:
//   U = M (A~ S^T + A_ak V),  Y = R~ S^T + A_rk V + A_rb U,  S <- (S + V^T K~ + U^T B~) diag(gamma)
// with the decay of the whole chunk. Rows of S do not mix: warp i keeps rows 16 i ... 16 i + 15 in
// registers and needs only its columns of V. What does not depend on the state is done ahead: while
// chunk c takes its step, the blocks of c + 1 are made and the operands of c + 2 are scaled.
#pragma once

#include "kernels/cuda/wkv7_chunk.h"

namespace rwkv::cuda {

// kMap: of each head two blocks, one for B, which starts from zero, and one for M, which starts
// from the identity and has no values. There is no y then.
template <bool kMap>
struct Wkv7ChunkForwardKernel {
  static constexpr int kBlockThreads = kChunkThreads, kBlocksPerSm = 4;

  Wkv7Input<Bf16> in;
  const float* s_in;
  Bf16* y;
  float *s_out, *m;
  std::byte* saved;

  // In shared memory. Operands of three chunks are alive.
  struct Room {
    std::byte raw[kScaled * kTokensBytes];
    std::byte w_raw[kDecaysBytes];
    std::byte v[2][kTokensBytes];
    std::byte scaled[3][kScaled * kTokensBytes];
    float decay[3][kChunkHead];
    std::byte blocks[2][kBlocks * kBlockBytes];
    std::byte scratch[kInverseBytes];
  };

  RWKV_DEVICE void operator()() const {
    Room& room = as<Room>(device::shared_memory());
    const int64_t bh = kMap ? block_index() / 2 : block_index();
    const bool of_map = kMap && block_index() % 2 != 0;
    const HeadTokens head(in, bh);
    const int64_t chunks = head.chunks();
    Sums state[4];
    if (of_map) {
      set_identity(state);
    } else {
      read_state(s_in == nullptr ? nullptr : s_in + bh * kChunkHead * kChunkHead, state);
    }
    fetch(room, head, 0, -1);
    int slot = 0;  // of chunk c + 2 among three
    for (int64_t c = -2; c < chunks; ++c) {
      device::wait_copies<0>();
      device::sync_warp();
      if (c + 2 < chunks) scale(room, head, c + 2, slot);
      device::sync_warp();
      fetch(room, head, c + 3, c + 1);
      const int next = slot == 0 ? 2 : slot - 1, now = slot == 2 ? 0 : slot + 1;
      if (c + 1 >= 0 && c + 1 < chunks) {
        make_blocks(room.scaled[next], room.scratch, room.blocks[(c + 1) % 2]);
      }
      if (c >= 0) step(room, head, bh, c, now, of_map, state);
      slot = now;
      device::sync_block();
    }
    float* to = of_map ? m : s_out;
    if (to != nullptr) write_state(state, to + bh * kChunkHead * kChunkHead);
  }

 private:
  RWKV_DEVICE static void set_identity(Sums (&state)[4]) {
    RWKV_UNROLL
    for (int i = 0; i < 32; ++i) {
      const int j = i / 8, n = i / 4 % 2, h = i / 2 % 2, e = i % 2;
      const bool same = 16 * warp_index() + own_row() + 8 * h == 16 * j + 8 * n + own_column() + e;
      state[j].c[n][2 * h + e] = same ? 1.0f : 0.0f;
    }
  }

  // Operands of one chunk and values of another.
  RWKV_DEVICE void fetch(Room& room, const HeadTokens& head, int64_t operands,
                         int64_t values) const {
    if (operands < head.chunks()) {
      const OwnTokens own = head.own(operands);
      fetch_tokens(own, kMap ? in.k : in.r, room.raw + kR * kTokensBytes);
      fetch_tokens(own, in.k, room.raw + kK * kTokensBytes);
      fetch_tokens(own, in.a, room.raw + kA * kTokensBytes);
      fetch_tokens(own, in.b, room.raw + kB * kTokensBytes);
      fetch_decays(own, in.w_raw, room.w_raw);
    }
    if (values >= 0 && values < head.chunks()) {
      fetch_tokens(head.own(values), in.v, room.v[values % 2]);
    }
    device::end_copy_group();
  }

  RWKV_DEVICE static void scale(Room& room, const HeadTokens& head, int64_t chunk, int slot) {
    const Gammas g = scale_operands(room.raw, room.w_raw, head.own(chunk).count, room.scaled[slot]);
    if (lane_index() / 4 < 7) return;
    const int column = 16 * warp_index() + lane_index() % 4 * 4;
    *reinterpret_cast<Floats4*>(&room.decay[slot][column]) = {
        {g.after[1][0], g.after[1][1], g.after[1][2], g.after[1][3]}};
  }

  RWKV_DEVICE void step(Room& room, const HeadTokens& head, int64_t bh, int64_t c, int slot,
                        bool of_map, Sums (&state)[4]) const {
    const std::byte *scaled = room.scaled[slot], *blocks = room.blocks[c % 2];
    Fragment before[4];
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) before[j] = rounded(state[j]);
    if (!kMap && saved != nullptr) {
      std::byte* to = saved + (bh * head.chunks() + c) * kChunkStateBytes;
      RWKV_UNROLL
      for (int j = 0; j < 4; ++j) store_block<Blocks64>(to, 16 * warp_index(), 16 * j, before[j]);
    }
    Fragment v = load_transposed<Rows64>(room.v[c % 2], 0, 16 * warp_index());
    if (of_map) v = {{0, 0, 0, 0}};
    Sums z = zero_sums(), u = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(z, before[j], load_block<Rows64>(scaled + kA * kTokensBytes, 0, 16 * j));
    }
    add_product(z, v, load_block<Rows16>(blocks + kAk * kBlockBytes));
    add_product(u, rounded(z), load_block<Rows16>(blocks + kM * kBlockBytes));
    const Fragment removed = rounded(u);
    if (!kMap) {
      Sums out = zero_sums();
      RWKV_UNROLL
      for (int j = 0; j < 4; ++j) {
        add_product(out, load_block<Rows64>(scaled + kR * kTokensBytes, 0, 16 * j), before[j]);
      }
      add_product(out, load_block<Rows16>(blocks + kRk * kBlockBytes), v);
      add_product(out, load_block<Rows16>(blocks + kRb * kBlockBytes), removed);
      write_tokens(rounded(out), head.own(c), y);
    }
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(state[j], v, load_transposed<Rows64>(scaled + kK * kTokensBytes, 0, 16 * j));
      add_product(state[j], removed,
                  load_transposed<Rows64>(scaled + kB * kTokensBytes, 0, 16 * j));
      scale_columns(state[j], room.decay[slot] + 16 * j);
    }
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

inline void wkv7_chunk_forward(const Stream& stream, const Wkv7Forward& op) {
  using Kernel = Wkv7ChunkForwardKernel<false>;
  const Wkv7Input<Bf16> input(op.in);
  const bool folds = chunks_fold(op.m, op.s_in, op.s_out);
  device::launch(stream, {input.batch * input.heads, kChunkThreads, sizeof(Kernel::Room)},
                 Kernel{input, in<float>(op.s_in), out<Bf16>(op.y),
                        folds ? nullptr : out<float>(op.s_out), nullptr, op.s_saved.data});
  if (folds) fold_tile(stream, {.m = op.m, .add = op.b, .from = op.s_in, .out = op.s_out});
}
inline void wkv7_chunk_map(const Stream& stream, const Wkv7Map& op) {
  using Kernel = Wkv7ChunkForwardKernel<true>;
  if (op.first == op.end) return;
  const Wkv7Input<Bf16> input(op.in);
  device::launch(stream, {2 * input.batch * input.heads, kChunkThreads, sizeof(Kernel::Room)},
                 Kernel{input, nullptr, nullptr, out<float>(op.b), out<float>(op.m), nullptr});
}

}  // namespace rwkv::cuda
