// The RWKV-7 recurrence (arXiv 2503.14456, eq. 17-19; official kernel rwkv7_clampw.cu). Per head,
// S[i][j], row i = value, column j = key:
//   S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_t^T + v_t k_t^T,   y_t = S_t r_t
//   w_t = exp(-e^-1/2 sigmoid(w_raw_t)), in (0.545, 1)
#pragma once

#include "core/base/tensor.h"

namespace rwkv {

// The state before every kWkv7Saved-th token is kept for the backward pass.
inline constexpr int64_t kWkv7Saved = 16;
inline constexpr int64_t wkv7_saved_states(int64_t tokens) {
  return (tokens + kWkv7Saved - 1) / kWkv7Saved;
}

// A saved state has N rows of this many elements: N rounded up to 16, 32, 64, 128 or 256.
inline constexpr int64_t wkv7_state_stride(int64_t head_size) {
  int64_t stride = 16;
  while (stride < head_size) stride *= 2;
  return stride;
}

struct Wkv7Forward {
  ConstTensor r, k, v, a, b;  // (B, T, H, N)
  ConstTensor w_raw;          // (B, T, H, N) acc
  ConstTensor s_in;           // (B, H, N, N) acc
  Tensor y;                   // (B, T, H, N)
  Tensor s_out;               // (B, H, N, N) acc; may be s_in
  Tensor s_saved;  // (B, H, wkv7_saved_states(T), N, wkv7_state_stride(N)) acc, layout of
                   // the backend's own choice; empty: no backward will follow
};

// Elements of scratch (acc type) that a backward pass needs a thread.
inline constexpr int64_t wkv7_backward_scratch(int64_t head_size) {
  return (kWkv7Saved + 2) * head_size * wkv7_state_stride(head_size) + 8 * head_size;
}

struct Wkv7Backward {
  ConstTensor r, k, v, a, b;  // (B, T, H, N)
  ConstTensor w_raw;          // (B, T, H, N) acc
  ConstTensor s_saved;        // as the forward pass left it
  ConstTensor dy;             // (B, T, H, N)
  ConstTensor ds_out;         // (B, H, N, N) acc; empty: zero
  Tensor dr, dk, dv;          // (B, T, H, N): the recurrence's gradient is ADDED to what is there
                              // (the bonus term's)
  Tensor da, db;              // (B, T, H, N) overwritten
  Tensor dw_raw;              // (B, T, H, N) acc, overwritten
  Tensor ds_in;               // (B, H, N, N) acc, overwritten; empty: not wanted
  Tensor scratch;             // (threads, wkv7_backward_scratch(N)) acc, 64-byte aligned
};

}  // namespace rwkv
