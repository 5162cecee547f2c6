// The recurrence in chunks where heads are too few to fill the device: tokens are cut into pieces,
// and the pieces of a head run side by side. Their maps are made first, all at once; a fold over
// these gives the state before each piece, and backward the adjoint behind each. Without maps that
// an exchange has made (those are folded where they are, tile after tile).
#pragma once

#include "kernels/cuda/wkv7_chunk_backward.h"
#include "kernels/cuda/wkv7_chunk_forward.h"

namespace rwkv::cuda {

// When pieces pay, in heads a multiprocessor, and how many blocks that holds: a head that is alone
// leaves most of a multiprocessor idle, and the maps cost about two forward passes on the way
// forward, and the same on the way back. Milliseconds on an H100 (132 multiprocessors) with and
// without (docs/measurements/2026-11-27-h100-h200.md): forward 0.43 and 0.32 for 48 heads of 4096
// tokens, 0.94 and 1.23 for 12 of 16384; backward 1.06 and 1.02 for 128 heads, 0.64 and 0.84 for
// 64.
struct PieceRule {
  double heads_at_most;
  int64_t blocks;
};
inline constexpr PieceRule kForwardPieces{0.2, 3}, kBackwardPieces{0.7, 2};

// Tokens of a piece; 0: one piece. `room`: bytes for maps and states.
inline int64_t piece_tokens(int64_t heads, int64_t tokens, const PieceRule& rule,
                            int64_t multiprocessors, int64_t room) {
  if (static_cast<double>(heads) > rule.heads_at_most * static_cast<double>(multiprocessors))
    return 0;
  const int64_t fitting = room / (3 * heads * kChunkSquare * 4);
  int64_t pieces = multiprocessors * rule.blocks / heads;
  if (pieces > fitting) pieces = fitting;
  if (pieces < 2) return 0;
  const int64_t piece = ((tokens + pieces - 1) / pieces + kChunk - 1) / kChunk * kChunk;
  return piece < device::kLeastPiece ? device::kLeastPiece : piece;
}

// States at the edges between pieces: forward S <- S M + B from the first on, into place 0 what is
// before piece 1; transposed dS <- dS M^T + C from the last on, into place i what is behind piece
// i. A block has some rows of a head, eight threads a row.
struct FoldPieces {
  static constexpr int kRows = 16, kShare = 8, kOwn = kChunkHead / kShare;
  static constexpr int kFoldThreads = kRows * kShare;

  const float *m, *add, *from;  // of pieces; of the end
  float* to;
  int64_t pieces, heads;
  bool transposed;

  RWKV_DEVICE void operator()() const {
    auto* rows = reinterpret_cast<float*>(device::shared_memory());
    constexpr int kBlocks = kChunkHead / kRows;
    const int64_t bh = block_index() / kBlocks;
    const int row = thread_index() / kShare, first = thread_index() % kShare * kOwn;
    const int64_t place = (block_index() % kBlocks * kRows + row) * kChunkHead;
    float own[kOwn];
    for (int j = 0; j < kOwn; ++j) {
      own[j] = from == nullptr ? 0 : from[bh * kChunkSquare + place + first + j];
    }
    for (int64_t i = 0; i + 1 < pieces; ++i) {
      const int64_t piece = transposed ? pieces - 1 - i : i;
      const int64_t entry = (piece * heads + bh) * kChunkSquare;
      for (int j = 0; j < kOwn; ++j) rows[row * kChunkHead + first + j] = own[j];
      device::sync_block();
      for (int j = 0; j < kOwn; ++j) own[j] = add[entry + place + first + j];
      for (int l = 0; l < kChunkHead; ++l) {
        const float s = rows[row * kChunkHead + l];
        for (int j = 0; j < kOwn; ++j) {
          own[j] +=
              s *
              m[entry + (transposed ? (first + j) * kChunkHead + l : l * kChunkHead + first + j)];
        }
      }
      device::sync_block();
      float* out = to + ((transposed ? piece - 1 : piece) * heads + bh) * kChunkSquare + place;
      for (int j = 0; j < kOwn; ++j) out[first + j] = own[j];
    }
  }
};

// Maps, what is added, and the states at edges, in scratch.
struct PieceRoom {
  float *m, *add, *edges;

  PieceRoom(const Stream& stream, const Wkv7Input<Bf16>& in) {
    const int64_t all = in.tiles * in.batch * in.heads * kChunkSquare;
    m = reinterpret_cast<float*>(device::scratch(stream, 3 * all * 4));
    add = m + all;
    edges = add + all;
  }
  void fold(const Stream& stream, const Wkv7Input<Bf16>& in, const float* from,
            bool transposed) const {
    const int64_t heads = in.batch * in.heads;
    device::launch(stream,
                   {heads * (kChunkHead / FoldPieces::kRows), FoldPieces::kFoldThreads,
                    FoldPieces::kRows * kChunkHead * int64_t{sizeof(float)}},
                   FoldPieces{m, add, from, edges, in.tiles, heads, transposed});
  }
};

// The sequence as tiles that are the pieces.
inline Wkv7Input<Bf16> in_pieces(const Stream& stream, const Wkv7Sequence& in,
                                 const PieceRule& rule) {
  Wkv7Sequence cut = in;
  const int64_t heads = in.k.shape[0] * in.k.shape[2];
  cut.tile =
      piece_tokens(heads, in.k.shape[1], rule, device::multiprocessors(), device::room(stream));
  return Wkv7Input<Bf16>(cut);
}
// Maps of pieces: they end where pieces end.
template <bool kPlain>
Wkv7ChunkWayKernel<ChunkWay::kMap, kPlain> piece_maps(const Wkv7Input<Bf16>& in) {
  auto maps = chunk_way<ChunkWay::kMap, kPlain>(in);
  maps.in.handed = in.tokens;
  return maps;
}

template <bool kPlain>
void wkv7_chunk_forward(const Stream& stream, const Wkv7Forward& op) {
  if (!op.m.empty()) return wkv7_folded_forward<kPlain>(stream, op);
  const Wkv7Input<Bf16> input = in_pieces(stream, op.in, kForwardPieces);
  const int64_t heads = input.batch * input.heads;
  auto kernel = chunk_way<ChunkWay::kForward, kPlain>(input);
  if (input.tiles > 1) {
    const PieceRoom room(stream, input);
    auto maps = piece_maps<kPlain>(input);
    maps.m = room.m;
    maps.s_out = room.add;
    run_chunks(stream, 2 * (input.tiles - 1) * heads, maps);
    room.fold(stream, input, in<float>(op.s_in), false);
    kernel.edges = room.edges;
  }
  kernel.s_in = in<float>(op.s_in);
  kernel.y = out<Bf16>(op.y);
  kernel.s_out = out<float>(op.s_out);
  kernel.saved = op.s_saved.data;
  if (input.tiles > 1) return run_chunks(stream, input.tiles * heads, kernel);
  run_whole_heads(stream, heads, kernel);
}

// `blocks` of them; ends, at_end: the kernel's. With two teams where a block may have so much
// shared memory.
template <bool kFolded, bool kPlain>
void run_chunks_back(const Stream& stream, const Wkv7Backward& op, const Wkv7Input<Bf16>& input,
                     int64_t blocks, const float* ends, float* at_end) {
  const auto run = [&](auto teams) {
    run_chunks(
        stream, blocks,
        Wkv7ChunkBackKernel<kFolded, kPlain, teams>{
            input,
            op.s_saved.data,
            in<float>(op.ds_out),
            ends,
            in<float>(op.m),
            in<float>(op.c),
            at_end,
            in<Bf16>(op.dy),
            out<Bf16>(op.dv),
            {input.w_raw, in<float>(op.bonus.gradient), in<float>(op.bonus.r_k), out<Bf16>(op.dr),
             out<Bf16>(op.dk), out<Bf16>(op.da), out<Bf16>(op.db), out<Bf16>(op.dw_raw)},
            out<float>(op.ds_in)});
  };
  using Teams = Wkv7ChunkBackKernel<kFolded, kPlain, true>;
  device::block_shared_bytes() >= static_cast<int64_t>(sizeof(typename Teams::Room))
      ? run(std::true_type{})
      : run(std::false_type{});
}

// With maps, tile after tile.
template <bool kPlain>
void wkv7_folded_backward(const Stream& stream, const Wkv7Backward& op) {
  const Wkv7Input<Bf16> input(op.in);
  const int64_t heads = input.batch * input.heads;
  run_chunks_back<true, kPlain>(
      stream, op, input, heads, nullptr,
      reinterpret_cast<float*>(device::scratch(stream, heads * kChunkSquare * 4)));
}

// What is handed on before an overlap has its gradient join inside a piece, and nothing comes from
// behind the last one.
template <bool kPlain>
void wkv7_chunk_backward(const Stream& stream, const Wkv7Backward& op) {
  if (!op.m.empty()) return wkv7_folded_backward<kPlain>(stream, op);
  const Wkv7Input<Bf16> input = in_pieces(stream, op.in, kBackwardPieces);
  const int64_t heads = input.batch * input.heads;
  const float* ends = nullptr;
  if (input.tiles > 1) {
    const bool overlaps = op.in.overlap > 0;
    const PieceRoom room(stream, input);
    auto maps = piece_maps<kPlain>(input);
    maps.first = 1;
    maps.m = room.m;
    maps.both = false;
    run_chunks(stream, (input.tiles - 1) * heads, maps);
    auto adjoints = chunk_way<ChunkWay::kAdjoint, kPlain>(input);
    adjoints.first = 1;
    adjoints.s_in = overlaps ? in<float>(op.ds_out) : nullptr;
    adjoints.dy = in<Bf16>(op.dy);
    adjoints.s_out = room.add;
    run_chunks(stream, (input.tiles - 1) * heads, adjoints);
    room.fold(stream, input, overlaps ? nullptr : in<float>(op.ds_out), true);
    ends = room.edges;
  }
  run_chunks_back<false, kPlain>(stream, op, input, input.tiles * heads, ends, nullptr);
}

}  // namespace rwkv::cuda
