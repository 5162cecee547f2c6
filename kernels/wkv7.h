// The RWKV-7 recurrence (arXiv 2503.14456, eq. 17-19; official kernel rwkv7_clampw.cu). Per head,
// S[i][j], row i = value, column j = key:
//   S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_t^T + v_t k_t^T,   y_t = S_t r_t
//   w_t = exp(-e^-1/2 sigmoid(w_raw_t)), in (0.545, 1)
// Over a run of tokens the state's way is affine: S_out = S_in M + B (rows of S never mix). Tiles
// of a sequence have their maps (M, B), and backward C, the gradient of S_in that the tile's own
// outputs cause: dS_in = dS_out M^T + C. A fold over maps is how a state crosses tiles, on one
// rank and over ranks, with the same bits.
#pragma once

#include "core/base/tensor.h"

namespace rwkv {

// The state before every kWkv7Saved-th token of a tile is kept for the backward pass. Tiles have
// `tile` tokens, the last one is cut short; tile 0: all tokens are one.
inline constexpr int64_t kWkv7Saved = 16;
inline constexpr int64_t wkv7_tiles(int64_t tokens, int64_t tile) {
  return tile == 0 ? 1 : (tokens + tile - 1) / tile;
}
inline constexpr int64_t wkv7_saved_states(int64_t tokens, int64_t tile = 0) {
  if (tokens == 0) return 0;
  if (tile == 0) tile = tokens;
  const int64_t rest = tokens % tile;
  return tokens / tile * ((tile + kWkv7Saved - 1) / kWkv7Saved) +
         (rest + kWkv7Saved - 1) / kWkv7Saved;
}

inline constexpr int64_t kWkv7MaxHead = 256;  // N

// A saved state has N rows of this many elements: N rounded up to 16, 32, 64, 128 or 256.
inline constexpr int64_t wkv7_state_stride(int64_t head_size) {
  int64_t stride = 16;
  while (stride < head_size) stride *= 2;
  return stride;
}

// What the recurrence reads, and where its tiles end.
struct Wkv7Sequence {
  ConstTensor r, k, v, a, b;  // (B, T, H, N)
  ConstTensor w_raw;          // (B, T, H, N)
  ConstTensor w0 = {};        // (H, N) acc, added to w_raw; empty: nothing is
  ConstTensor starts = {};    // (B, T) i32, not 0: a document starts here, from the zero state
  int64_t tile = 0;           // 0: all tokens
  // The last tokens, which the right neighbour runs again: the state that is handed on (M, B, and
  // what ds_out is the gradient of) is the one before them. Not 0 only without tiles.
  int64_t overlap = 0;
};

// Tokens before an overlap, for what cares where the state is handed on; 0 without one.
inline constexpr int64_t wkv7_before_overlap(int64_t tokens, int64_t overlap) {
  return overlap == 0 ? 0 : tokens - overlap;
}

// Maps of tiles: (tiles, B, H, N, wkv7_state_stride(N)) acc, layout of the backend's own choice,
// for Wkv7Forward, Wkv7Backward and Wkv7Fold to read.

// M and B of tiles [first, end); r is not read.
struct Wkv7Map {
  Wkv7Sequence in;
  int64_t first = 0, end = 0;
  Tensor m, b;
};

// C of tiles [first, end); k and v are not read.
struct Wkv7MapBackward {
  Wkv7Sequence in;
  ConstTensor dy;  // (B, T, H, N)
  int64_t first = 0, end = 0;
  Tensor c;
};

// With m and b the state is folded at the end of each tile: S <- S M + B. Their entries are not
// read for a first tile that starts from zero (0 M + B is what the recurrence leaves there) and for
// the last tile when s_out is not wanted.
struct Wkv7Forward {
  Wkv7Sequence in;
  ConstTensor s_in;            // (B, H, N, N) acc; empty: zero
  ConstTensor m = {}, b = {};  // empty: the recurrence runs through
  Tensor y;                    // (B, T, H, N)
  Tensor s_out;                // (B, H, N, N) acc; empty: not wanted
  Tensor s_saved;  // (B, H, wkv7_saved_states(T, tile), N, wkv7_state_stride(N)) acc, or bf16
                   // (Backend::saves_bf16_states), layout of the backend's own choice; empty: no
                   // backward will follow
};

// Elements of scratch (acc type) that a backward pass needs a thread.
inline constexpr int64_t wkv7_backward_scratch(int64_t head_size) {
  return (kWkv7Saved + 4) * head_size * wkv7_state_stride(head_size) + 8 * head_size;
}

// The bonus r_k . (r k) of a token and head, which stands beside the recurrence
// (kernels/time_mix.h) and reads the same r and k: its gradient's part of theirs.
struct Wkv7Bonus {
  ConstTensor gradient;  // (B, T, H) acc, of the bonus; empty: there is none
  ConstTensor r_k;       // (H, N) acc
};

// With m and c the gradient is folded at the start of each tile: dS <- dS M^T + C. Their entries
// are not read for a last tile behind which nothing follows (ds_out empty) and for the first tile
// when ds_in is not wanted.
struct Wkv7Backward {
  Wkv7Sequence in;
  ConstTensor s_saved;         // as the forward pass left it
  ConstTensor dy;              // (B, T, H, N)
  ConstTensor ds_out;          // (B, H, N, N) acc: of the state handed on; empty: zero
  ConstTensor m = {}, c = {};  // empty: the gradient runs through
  Wkv7Bonus bonus = {};
  Tensor dr, dk;   // (B, T, H, N) overwritten: the recurrence's and the bonus's
  Tensor dv;       // (B, T, H, N): the recurrence's gradient is ADDED to what is there
                   // (the bonus term's)
  Tensor da, db;   // (B, T, H, N) overwritten
  Tensor dw_raw;   // (B, T, H, N) overwritten
  Tensor ds_in;    // (B, H, N, N) acc, overwritten; empty: not wanted
  Tensor scratch;  // (threads, wkv7_backward_scratch(N)) acc, 64-byte aligned
};

// out = `from` folded over tiles [first, end) in order: S <- S M + add; or, transposed, from tile
// end - 1 down to first: dS <- dS M^T + add.
struct Wkv7Fold {
  ConstTensor m, add;  // B, or C when transposed
  int64_t first = 0, end = 0;
  bool transposed = false;
  ConstTensor from;  // (B, H, N, N) acc; empty: zero
  Tensor out;        // (B, H, N, N) acc; may be `from`
};

}  // namespace rwkv
