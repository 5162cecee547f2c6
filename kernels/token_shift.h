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
  Tensor halo_out;                         // (B, C) acc: the last row of u; empty: not wanted
};

// dhalo and dhalo_out are float32 (float64) always: they cross boundaries.
struct TokenShiftBackward {
  ConstTensor u;          // (B, T, C)
  ConstTensor halo;       // (B, C) acc
  ConstTensor dhalo_out;  // (B, C) acc: gradient of halo_out, from the right; empty: zero
  int mixes = 0;
  std::array<ConstTensor, kMaxMixes> mix;   // (C) acc
  std::array<ConstTensor, kMaxMixes> dout;  // (B, T, C)
  Tensor du;                                // (B, T, C) overwritten
  Tensor dhalo;                             // (B, C) acc, overwritten; empty: not wanted
  std::array<TokenSum, kMaxMixes> dmix;     // (C)
  Leaves leaves = {};
};

}  // namespace rwkv
