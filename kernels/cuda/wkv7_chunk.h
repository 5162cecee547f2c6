// The WKV-7 recurrence in chunks of 16 tokens as matrix products: what forward and backward share.
// Of a chunk, with g the sum of log w up to and with token t and gamma = exp(g):
//   R~ = r gamma_t,  A~ = a gamma_{t-1},  K~ = k / gamma_t,  B~ = b / gamma_t        (16 x 64)
//   A_ab, A_ak = below the diagonal of A~ B~^T, A~ K~^T
//   A_rb, A_rk = on and below that of R~ B~^T, R~ K~^T                               (16 x 16)
//   M = (1 - A_ab)^-1, by substitution in float: powers of A_ab grow where keys repeat.
// 1 / gamma stays below 1.7e4 as w > 0.545. A block has a head. Its warps work in teams of four, of
// which warp i loads and scales columns 16 i ... 16 i + 15 of all operands.
//
// Where documents start in a chunk, pairs of tokens count in the blocks when they are of the same
// document; the state before the chunk meets the tokens of the first document alone, and the state
// behind it those of the last. Kernels come twice: kPlain for passes without document starts and
// overlap, which pay for neither.
#pragma once

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/wkv7_ops.h"

namespace rwkv::cuda {

inline constexpr int kChunk = 16, kChunkHead = 64, kChunkThreads = 128;

// What these kernels take; the others are for the rest. They save the states before each chunk in
// bf16. What is handed on before an overlap is handed on between two chunks.
inline bool wkv7_saves_bf16(DType type, int64_t head_size, int64_t tile, int64_t before_overlap) {
  return type == DType::kBF16 && head_size == kChunkHead && tile % kChunk == 0 &&
         before_overlap % kChunk == 0;
}
inline bool wkv7_in_chunks(const Wkv7Sequence& in) {
  return wkv7_saves_bf16(in.k.dtype, in.k.shape[3], in.tile,
                         wkv7_before_overlap(in.k.shape[1], in.overlap));
}
inline constexpr int64_t kChunkStateBytes = kChunkHead * kChunkHead * 2;
static_assert(kChunk == kWkv7Saved && kChunkHead == wkv7_state_stride(kChunkHead));

inline constexpr int64_t kChunkSquare = kChunkHead * kChunkHead;  // elements of a state or map

// Bytes of shared matrices.
inline constexpr int kTokensBytes = kChunk * Rows64::kRowBytes;        // 16 x 64 bf16
inline constexpr int kDecaysBytes = kChunk * Floats64::kRowBytes;      // 16 x 64 float
inline constexpr int kBlockBytes = kChunk * Rows16::kRowBytes;         // 16 x 16 bf16
inline constexpr int kSquareBytes = kChunkHead * Blocks64::kRowBytes;  // 64 x 64 bf16
// A column of floats, so long that 8 columns lie in all banks.
inline constexpr int kInverseColumn = 80, kInverseBytes = kChunk * kInverseColumn;

// The operands of a chunk, kTokensBytes apart, and its blocks, kBlockBytes apart.
enum { kR, kK, kA, kB, kScaled };
enum { kM, kAk, kRb, kRk, kBlocks };  // kM: M - 1, transposed

// The warp's columns of a chunk's tokens: where the first is, from one to the next, and how many
// there are.
struct OwnTokens {
  int64_t first;
  int stride, count, lane;

  // Of an element of a row of the warp's columns.
  RWKV_DEVICE int64_t at(int row, int column) const { return first + row * stride + column; }
  // Of the head's number of a row.
  RWKV_DEVICE int64_t head_at(int row) const { return at(row, 0) / kChunkHead; }
};

// lane_index(), looked up again: registers are few while chunks run.
RWKV_DEVICE int fresh_lane() { return device::opaque(lane_index()) & (kWarp - 1); }

// Those of a tile and head.
struct HeadTokens {
  int64_t first;
  int count, stride;
  int64_t saved;  // where its saved states begin, in states
  int64_t row;    // where its starts begin
  int handed;     // the chunk behind which the state before an overlap is; none: no chunk's index

  RWKV_DEVICE HeadTokens(const Wkv7Input<Bf16>& in, int64_t bh, int64_t begin, int64_t end)
      : first(in.at(bh, begin, kChunkHead) + own_band()),
        count(static_cast<int>(end - begin)),
        stride(static_cast<int>(in.heads) * kChunkHead),
        saved(bh * ((in.tokens + kChunk - 1) / kChunk) + begin / kChunk),
        row(bh / in.heads * in.tokens + begin),
        handed(in.overlaps() ? static_cast<int>((in.handed - begin) / kChunk) - 1 : -1) {}
  RWKV_DEVICE int chunks() const { return (count + kChunk - 1) / kChunk; }
  RWKV_DEVICE OwnTokens own(int chunk) const {
    const int left = count - chunk * kChunk;
    const int64_t behind = static_cast<int64_t>(chunk) * kChunk * stride;
    return {device::opaque(first + behind), stride, left < kChunk ? left : kChunk, fresh_lane()};
  }
};

// Of the lane's token of a chunk: not 0 where a document starts.
RWKV_DEVICE int32_t own_start(const Wkv7Input<Bf16>& in, const HeadTokens& head, int chunk) {
  const int token = chunk * kChunk + lane_index();
  const bool there = in.starts != nullptr && lane_index() < kChunk && token < head.count;
  return there ? in.starts[head.row + token] : 0;
}

// Those of all lanes into the warp's word in shared memory.
RWKV_DEVICE void keep_starts(int32_t start, uint32_t (&to)[kTeamWarps]) {
  const uint32_t bits = device::warp_ballot(start != 0);
  if (lane_index() == 0) to[team_warp()] = bits;
}

// Where documents start in a chunk: bit t is token t's. kPlain: nowhere.
template <bool kPlain>
struct Documents {
  uint32_t starts;

  RWKV_DEVICE bool one() const { return kPlain || starts == 0; }

  // What is kept of sums or operands over tokens: those of the first document, or of the last.
  RWKV_DEVICE void first_rows(Sums& s) const {
    if (!one()) keep_rows(s, first());
  }
  RWKV_DEVICE void last_rows(Sums& s) const {
    if (!one()) keep_rows(s, last());
  }
  template <class Block>
  RWKV_DEVICE void first_columns(Block& b) const {
    if (!one()) keep_columns(b, first());
  }
  template <class Block>
  RWKV_DEVICE void last_columns(Block& b) const {
    if (!one()) keep_columns(b, last());
  }
  // Of a block on and below its diagonal: row t and column s of the same document.
  RWKV_DEVICE void same(Sums& sums) const {
    if (one()) return;
    RWKV_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int n = i / 4, h = i / 2 % 2, e = i % 2;
      const int t = own_row() + 8 * h, s = own_column() + 8 * n + e;
      if ((starts & ((2u << t) - 1)) >> (s + 1) != 0) sums.c[n][2 * h + e] = 0;
    }
  }
  // A state or adjoint does not pass a start.
  RWKV_DEVICE void stop(Sums (&state)[4]) const {
    if (one()) return;
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) state[j] = zero_sums();
  }

 private:
  // Tokens below the lowest start; tokens at the highest and above. Bits of tokens.
  RWKV_DEVICE uint32_t first() const { return (starts & (0u - starts)) - 1; }
  RWKV_DEVICE uint32_t last() const {
    uint32_t below = starts >> 1;
    RWKV_UNROLL
    for (int by = 1; by < kChunk; by *= 2) below |= below >> by;
    return ~below;
  }
};

// On their way into shared memory; zeros behind the end. Whole rows, four by each warp of the team:
// of 32 bytes of each of 16 rows a warp would need four times as many accesses. So another warp may
// read them after a sync of the team or block.
RWKV_DEVICE void fetch_tokens(const OwnTokens& own, const Bf16* from, std::byte* to) {
  const int row = 4 * team_warp() + own.lane / 8, column = own.lane % 8 * 8;
  const bool there = row < own.count;
  const Bf16* p = from + (there ? own.at(row, column - own_band()) : own.first);
  device::copy_async(to + Rows64::offset(row, column), reinterpret_cast<const std::byte*>(p),
                     there);
}

// A 16 x 16 block to the tokens that there are. Neighbours trade words, so that four of them write
// 32 bytes.
RWKV_DEVICE void write_tokens(const Fragment& f, const OwnTokens& own, Bf16* to) {
  const bool odd = own.lane % 2 != 0;
  const int column = own.lane % 2 * 8 + own.lane % 4 / 2 * 4;
  RWKV_UNROLL
  for (int h = 0; h < 2; ++h) {
    const uint32_t left = f.x[h], right = f.x[2 + h];
    const uint32_t other = device::warp_xor_bits(odd ? left : right, 1);
    const int row = own.lane / 4 + 8 * h;
    if (row >= own.count) continue;
    *reinterpret_cast<Words2*>(to + own.at(row, column)) =
        odd ? Words2{{other, right}} : Words2{{left, other}};
  }
}
// A thread's own elements of such a block; zero where there is no token.
RWKV_DEVICE Fragment read_tokens(const OwnTokens& own, const Bf16* from) {
  Fragment f;
  RWKV_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = own_row() + i % 2 * 8, column = own_column() + i / 2 * 8;
    f.x[i] = row < own.count ? *reinterpret_cast<const uint32_t*>(from + own.at(row, column)) : 0u;
  }
  return f;
}

// The warp's columns of a head's row of (H, N) into shared memory; zeros where none is given.
RWKV_DEVICE void keep_head_row(const float* rows, int64_t head, float* to) {
  if (lane_index() >= 16) return;
  const int column = own_band() + lane_index();
  to[column] = rows == nullptr ? 0 : rows[head * kChunkHead + column];
}

// gamma of 4 keys at 2 tokens, before and after each, and 1 / gamma.
struct Gammas {
  float before[2][4], after[2][4], inverse[2][4];
};

// w0: of the head, in shared memory. Thread l has tokens 2 (l / 4) and the next, keys 4 (l % 4) ...
// of the warp's. Logarithms here are of base 2.
RWKV_DEVICE Gammas gammas(const std::byte* w_raw, const float* w0, int tokens, int lane) {
  const int group = lane / 4, column = own_band() + lane % 4 * 4;
  const Floats4 plus = *reinterpret_cast<const Floats4*>(w0 + column);
  float logs[2][4], sum[4];
  RWKV_UNROLL
  for (int t = 0; t < 2; ++t) {
    const auto pairs = as<Words2>(w_raw + Rows64::offset(2 * group + t, column));
    const float w[4] = {low_half(pairs.x[0]), high_half(pairs.x[0]), low_half(pairs.x[1]),
                        high_half(pairs.x[1])};
    const float scale = 2 * group + t < tokens ? -kLog2E * static_cast<float>(kDecayScale) : 0.0f;
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) logs[t][i] = scale * sigmoid(w[i] + plus.x[i]);
  }
  RWKV_UNROLL
  for (int i = 0; i < 4; ++i) sum[i] = logs[0][i] + logs[1][i];
  RWKV_UNROLL
  for (int step = 1; step < 8; step *= 2) {
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float other = device::warp_read(sum[i], (lane - 4 * step) & (kWarp - 1));
      if (group >= step) sum[i] += other;
    }
  }
  Gammas g;
  RWKV_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float middle = sum[i] - logs[1][i];
    g.before[0][i] = device::fast_exp2(middle - logs[0][i]);
    g.before[1][i] = g.after[0][i] = device::fast_exp2(middle);
    g.after[1][i] = device::fast_exp2(sum[i]);
    RWKV_UNROLL
    for (int t = 0; t < 2; ++t) g.inverse[t][i] = device::fast_inverse(g.after[t][i]);
  }
  return g;
}

RWKV_DEVICE Words2 times(const Words2& x, const float (&by)[4]) {
  return {{device::pack_bf16(low_half(x.x[0]) * by[0], high_half(x.x[0]) * by[1]),
           device::pack_bf16(low_half(x.x[1]) * by[2], high_half(x.x[1]) * by[3])}};
}

// The warp's columns of r, k, a, b to R~, K~, A~, B~, in place; kOfR, kOfK: whether those are
// there. Returns the decays, for whoever keeps some.
template <bool kOfR, bool kOfK>
RWKV_DEVICE Gammas scale_operands(std::byte* operands, const std::byte* w_raw, const float* w0,
                                  int tokens) {
  const int lane = fresh_lane();
  const Gammas g = gammas(w_raw, w0, tokens, lane);
  RWKV_UNROLL
  for (int t = 0; t < 2; ++t) {
    const int at = Rows64::offset(lane / 4 * 2 + t, own_band() + lane % 4 * 4);
    RWKV_UNROLL
    for (int i = 0; i < kScaled; ++i) {
      if ((i == kR && !kOfR) || (i == kK && !kOfK)) continue;
      auto& words = as<Words2>(operands + i * kTokensBytes + at);
      words = times(words, i == kR ? g.after[t] : i == kA ? g.before[t] : g.inverse[t]);
    }
  }
  return g;
}

// Thread l has column l % 16 of M - 1, which begins as A's; row after row. `columns`: A, column by
// column, in float.
RWKV_DEVICE void substitute(const std::byte* columns, float (&x)[kChunk]) {
  const std::byte* own = columns + lane_index() % kChunk * kInverseColumn;
  RWKV_UNROLL
  for (int part = 0; part < 4; ++part) {
    const auto a = as<Floats4>(own + part * 16);
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) x[part * 4 + i] = a.x[i];
  }
  RWKV_UNROLL
  for (int l = 1; l + 1 < kChunk; ++l) {
    RWKV_UNROLL
    for (int part = (l + 1) / 4; part < 4; ++part) {
      const auto a = as<Floats4>(columns + l * kInverseColumn + part * 16);
      RWKV_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (part * 4 + i > l) x[part * 4 + i] += a.x[i] * x[l];
      }
    }
  }
}

// M - 1, transposed, from A_ab, by one warp. `scratch`: kInverseBytes of its own.
RWKV_DEVICE void invert(const Sums& ab, std::byte* scratch, std::byte* m) {
  RWKV_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int n = i / 4, h = i / 2 % 2, e = i % 2;
    as<float>(scratch + (own_column() + 8 * n + e) * kInverseColumn + (own_row() + 8 * h) * 4) =
        ab.c[n][2 * h + e];
  }
  device::sync_warp();
  float x[kChunk];
  substitute(scratch, x);
  if (lane_index() >= kChunk) return;  // the others have the same columns
  RWKV_UNROLL
  for (int half = 0; half < 2; ++half) {
    Words4 words;
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) {
      words.x[i] = device::pack_bf16(x[8 * half + 2 * i], x[8 * half + 2 * i + 1]);
    }
    as<Words4>(m + Rows16::offset(lane_index(), 8 * half)) = words;
  }
}

RWKV_DEVICE Sums lower_triangle(const Sums& s, bool with_diagonal) {
  Sums kept;
  const int corner = device::opaque(own_row() - own_column() + (with_diagonal ? 1 : 0));
  RWKV_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int n = i / 4, h = i / 2 % 2, e = i % 2;
    const int below = corner + 8 * h - 8 * n - e;
    kept.c[n][2 * h + e] = below > 0 ? s.c[n][2 * h + e] : 0;
  }
  return kept;
}

// A thread's own elements of the fold from M + add, or from M^T + add; all are 64 x 64 floats. Sums
// run in the order of Wkv7FoldKernel's: a fold has the same bits wherever it is done.
template <bool kTransposed>
RWKV_DEVICE void fold_state(const float* from, const float* m, const float* add, Sums (&state)[4]) {
  read_state(add, state);
  const float* rows = from + (own_band() + own_row()) * kChunkHead;
  for (int l = 0; l < kChunkHead; ++l) {
    const float upper = rows[l], lower = rows[8 * kChunkHead + l];
    RWKV_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int j = i / 4, n = i / 2 % 2, e = i % 2, column = 16 * j + 8 * n + own_column() + e;
      const float by = kTransposed ? m[column * kChunkHead + l] : m[l * kChunkHead + column];
      state[j].c[n][e] += upper * by;
      state[j].c[n][2 + e] += lower * by;
    }
  }
}

// x M, or x M^T.
template <bool kTransposed>
RWKV_DEVICE Fragment times_inverse(const Sums& x, const std::byte* blocks) {
  const std::byte* m = blocks + kM * kBlockBytes;
  Sums sums = x;
  add_product(sums, rounded(x),
              kTransposed ? load_right_transposed<Rows16>(m) : load_right<Rows16>(m));
  return rounded(sums);
}

// Through a chunk's outputs, the warp's rows: from what G has given dU, dZ; and
// G <- G + dY^T R~ + dZ^T A~ (wkv7_chunk_backward.h). Returns dZ.
template <bool kPlain>
RWKV_DEVICE Fragment add_outputs(const std::byte* scaled, const std::byte* blocks,
                                 const Documents<kPlain>& documents, const Fragment& dy, Sums& du,
                                 Sums (&adjoint)[4]) {
  add_product(du, dy, load_right_transposed<Rows16>(blocks + kRb * kBlockBytes));
  const Fragment dz = times_inverse<false>(du, blocks);
  Fragment dy_first = dy, dz_first = dz;
  documents.first_columns(dy_first);
  documents.first_columns(dz_first);
  RWKV_UNROLL
  for (int j = 0; j < 4; ++j) {
    add_product(adjoint[j], dy_first,
                load_right_transposed<Rows64>(scaled + kR * kTokensBytes, 0, 16 * j));
    add_product(adjoint[j], dz_first,
                load_right_transposed<Rows64>(scaled + kA * kTokensBytes, 0, 16 * j));
  }
  return dz;
}

// The chunk's blocks, one by each warp; of R~ and with K~ where those are there.
template <bool kOfR, bool kOfK, bool kPlain>
RWKV_DEVICE void make_blocks(const std::byte* scaled, const Documents<kPlain>& documents,
                             std::byte* scratch, std::byte* blocks) {
  const int block = team_warp();
  const bool of_r = block == kRb || block == kRk, with_k = block == kAk || block == kRk;
  if ((of_r && !kOfR) || (with_k && !kOfK)) return;
  const std::byte* left = scaled + (of_r ? kR : kA) * kTokensBytes;
  const std::byte* right = scaled + (with_k ? kK : kB) * kTokensBytes;
  Sums s = zero_sums();
  RWKV_UNROLL
  for (int j = 0; j < 4; ++j) {
    add_product(s, load_block<Rows64>(left, 0, 16 * j), load_right<Rows64>(right, 0, 16 * j));
  }
  s = lower_triangle(s, of_r);
  documents.same(s);
  if (block == kM) {
    invert(s, scratch, blocks + kM * kBlockBytes);
  } else {
    store_block<Rows16>(blocks + block * kBlockBytes, 0, 0, rounded(s));
  }
}

}  // namespace rwkv::cuda
