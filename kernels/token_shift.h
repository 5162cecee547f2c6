// Token shift with interpolation: out_c = u + (shift(u) - u) mix_c, where shift(u)_t = u_{t-1} and
// the row before the first token is the halo. Time mix takes six mixes (r, w, k, v, a, g), channel
// mix one. (RWKV-7, arXiv 2503.14456; official x_r ... x_g and ffn.x_k.)
#pragma once

#include <array>

#include "kernels/token_sum.h"

namespace rwkv {

inline constexpr int kMaxMixes = 6;

struct TokenShiftForward {
  ConstTensor u;     // (B, T, C)
  ConstTensor halo;  // (B, C) acc: row before the first token
  int mixes = 0;
  std::array<ConstTensor, kMaxMixes> mix;  // (C) acc each
  std::array<Tensor, kMaxMixes> out;       // (B, T, C) each
  ConstTensor starts = {};  // (B, T) i32, not 0: a document starts, the row before is zero
};

// The row that the right neighbour takes for its halo: that of token `at`; -1: zero.
struct HaloForward {
  ConstTensor u;  // (B, T, C)
  int64_t at = 0;
  Tensor out;  // (B, C) acc
};

// The halo's gradient, by the first token alone.
struct HaloBackward {
  int mixes = 0;
  std::array<ConstTensor, kMaxMixes> mix;   // (C) acc
  std::array<ConstTensor, kMaxMixes> dout;  // (B, T, C)
  ConstTensor starts = {};                  // (B, T) i32
  Tensor dhalo;                             // (B, C) acc, overwritten
};

// dhalo and dhalo_out are float32 (float64) always: they cross boundaries.
struct TokenShiftBackward {
  ConstTensor u;          // (B, T, C)
  ConstTensor halo;       // (B, C) acc
  ConstTensor dhalo_out;  // (B, C) acc: gradient of the row of token `at`, from the right; empty: 0
  int64_t at = 0;         // -1: there is no such row
  int mixes = 0;
  std::array<ConstTensor, kMaxMixes> mix;   // (C) acc
  std::array<ConstTensor, kMaxMixes> dout;  // (B, T, C)
  Tensor du;                                // (B, T, C) overwritten
  std::array<TokenSum, kMaxMixes> dmix;     // (C)
  ConstTensor starts = {};                  // (B, T) i32
  Leaves leaves = {};
};

}  // namespace rwkv
