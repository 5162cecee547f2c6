// Causal attention over a window, with grouped queries (arXiv 2305.13245) and rotary positions
// (arXiv 2104.09864). Keys are visited in tiles of kAttentionTile places of the sample, one after
// the other with a running maximum (arXiv 2205.14135), queries likewise backward: a sequence that
// is cut at multiples of it has the bits of the whole.
// No block uses it yet (docs/recipe.md, "not yet"); tests and benchmarks do.
#pragma once

#include <cmath>
#include <numbers>

#include "core/base/tensor.h"

namespace rwkv {

inline constexpr int64_t kAttentionTile = 64;
inline constexpr int64_t kAttentionMaxHead = 256;  // N, a multiple of 8

// What both ways read. Query head h reads key head h / (Hq / Hk). A query sees its own key and
// those before it that are in its document, in the window, and there.
struct AttentionInput {
  ConstTensor q;                         // (B, T, Hq, N)
  ConstTensor k, v;                      // (B, T, Hk, N), Hk divides Hq
  ConstTensor k_left = {}, v_left = {};  // (B, L, Hk, N): the L tokens before these; empty: L = 0
  ConstTensor positions;                 // (B, T) i32: tokens of the same document before this one
  int64_t first = 0;                     // place of token 0 in the sample, >= L
  int64_t window = 0;                    // a query sees this many keys, its own among them; 0: all
  double scale = 1;                      // of a score q . k
};

// y_t = sum_s p_ts v_s, p_ts = softmax over the keys s that t sees of scale q_t . k_s.
struct AttentionForward {
  AttentionInput in;
  Tensor y;    // (B, T, Hq, N)
  Tensor lse;  // (B, T, Hq) acc: log of the sum of exp(scores), for the backward pass
};

struct AttentionBackward {
  AttentionInput in;
  ConstTensor y, dy;  // (B, T, Hq, N)
  ConstTensor lse;    // (B, T, Hq) acc
  // (B, R, Hk, N) acc: what queries of right neighbours give the keys and values of the last R of
  // the L + T tokens that are here; empty: nothing. Theirs are added first.
  ConstTensor dk_right = {}, dv_right = {};
  Tensor dq;                          // (B, T, Hq, N) overwritten
  Tensor dk, dv;                      // (B, T, Hk, N) overwritten
  Tensor dk_left = {}, dv_left = {};  // (B, L, Hk, N) acc, overwritten; empty: not wanted
  Tensor delta;                       // (B, T, Hq) acc: scratch
};

// The last R of the L + T rows that are here, for the right neighbour: of keys, or of values.
struct AttentionHalo {
  ConstTensor left;  // (B, L, Hk, N); empty: L = 0
  ConstTensor own;   // (B, T, Hk, N)
  Tensor out;        // (B, R, Hk, N), R <= L + T
};

// Turns each pair (x_i, x_{i + N / 2}) by the angle 2 pi position turns_i; `back`: by its negative,
// which is the gradient's way.
struct Rope {
  ConstTensor x;          // (B, T, H, N), N even
  ConstTensor positions;  // (B, T) i32
  ConstTensor turns;      // (N / 2) f64: turns a token, rope_turns()
  bool back = false;
  Tensor out;  // (B, T, H, N); may be x
};

// base^(-2 i / N) radians a token (Su et al., section 3.2.2), in turns. In double: at position 1e8
// float would leave no digit of the angle.
inline double rope_turns(double base, int64_t head_size, int64_t pair) {
  return std::pow(base, -2.0 * static_cast<double>(pair) / static_cast<double>(head_size)) /
         (2 * std::numbers::pi);
}

}  // namespace rwkv
