// Memory and small helpers of Rwkv7Block; included by rwkv7_block.cpp and rwkv7_activations.cpp
// only.
#pragma once

#include "core/model/rwkv7_block.h"

namespace rwkv {

// The mixes of time mix, kMixes[m] the parameter of mix m. Channel mix has one, its first.
enum Mix : size_t { kMixR, kMixW, kMixK, kMixV, kMixA, kMixG };
inline constexpr std::array<Rwkv7Param, kMaxMixes> kMixes = {Rwkv7Param::kXr, Rwkv7Param::kXw,
                                                             Rwkv7Param::kXk, Rwkv7Param::kXv,
                                                             Rwkv7Param::kXa, Rwkv7Param::kXg};

// A low-rank MLP x -> f(x w1) w2. `inner` is x w1.
struct LowRank {
  bool active = true;  // false: f is the identity
  Activation f = Activation::kTanh;
  Tensor inner;     // (R, rank), kept
  Tensor outer;     // (R, rank) f(inner), kept where mixes are; inner itself without f
  Tensor gradient;  // (R, rank) scratch
};

struct Rwkv7Block::Activations final : Saved {
  Activations(Arena& saved, Arena& scratch, const BlockPlan&, const ModelConfig&, bool first);

  // Kept for the backward pass. R = B T.
  Tensor mean1, rstd1, mean2, rstd2;    // (R) acc
  Tensor r, key, value, k, a, b, g, y;  // (R, C)
  Tensor own_v;                         // (R, C); empty in the first layer
  Tensor v;                             // own_v, or v_first
  Tensor w_raw;                         // (R, C) without w0
  Tensor iclr_out, residual_out;        // (R, C)
  Tensor x_mid;                         // (B, T, C) after time mix
  Tensor squared;                       // (R, F) channel mix, after the activation
  Tensor states;                        // (B, H, chunks, N, stride) acc, or bf16
  Tensor tile_maps;                     // (tiles, B, H, N, stride) acc: M; empty: none needed
  LowRank decay, iclr, residual, gate;
  // Kept, or scratch that backward fills again: then channel mix shares its mix with time mix.
  bool keeps_mixes = false;
  std::array<Tensor, kMaxMixes> mixed;  // (B, T, C) by Mix
  Tensor channel_mixed;                 // (B, T, C)

  // Scratch.
  std::array<Tensor, kMaxMixes> dmixed;  // (B, T, C) by Mix; of channel mix the first
  Tensor u, z, dhidden, du;              // (B, T, C) normed; (R, C); (R, F); (B, T, C)
  Tensor dy, dr, dw_raw, dk, dv, da, db, dkey, dvalue, diclr, dresidual, dg;  // (R, C)
  Tensor wkv_scratch;                                                         // (threads, n) acc
  Tensor dbonus;                                                              // (R, H) acc
  Tensor halo_row;     // (B, C) acc: on its way to the right neighbour
  Tensor tile_states;  // (tiles, B, H, N, stride) acc: B, backward C

  int64_t tokens() const { return tokens_; }
  Tensor rows(const Tensor& t) const;   // (R, last dimension)
  Tensor heads(const Tensor& t) const;  // (B, T, H, N)

 private:
  void plan_tiles(Arena& saved, Arena& scratch, const BlockPlan&);
  void plan_low_rank(Arena& saved, Arena& scratch, LowRank&, int64_t rank, const BlockPlan&);
  int64_t batch_, tokens_, width_, head_size_;
};

// One call of a block: everything its steps share.
struct Rwkv7Block::Call {
  const Pass& pass;
  std::span<const Param> params;
  const std::array<int, static_cast<size_t>(Rwkv7Param::kCount)>& index;
  Activations& a;

  ConstTensor vec(Rwkv7Param) const;     // master; empty when absent
  ConstTensor weight(Rwkv7Param) const;  // compute
  TokenSum grad(Rwkv7Param) const;
  Leaves leaves() const { return pass.leaves(a.tokens()); }

  // out = x W^T for a linear weight [out, in].
  void product(const Tensor& x, Rwkv7Param w, const Tensor& out) const;
  Matmul product_of(const Tensor& x, Rwkv7Param w, const Tensor& out) const;
  // dW += dout^T x.
  void weight_gradient(const ConstTensor& dout, const Tensor& x, Rwkv7Param w) const;
  // dx = dout W, or dx += dout W.
  void input_gradient(const ConstTensor& dout, Rwkv7Param w, const Tensor& dx, bool add) const;
  Matmul input_gradient_of(const ConstTensor& dout, Rwkv7Param w, const Tensor& dx) const;

  void low_rank_forward(const LowRank&, Rwkv7Param w1, Rwkv7Param w2, const Tensor& x,
                        const Tensor& out) const;
  void low_rank_backward(const LowRank&, Rwkv7Param w1, Rwkv7Param w2, const Tensor& x,
                         const Tensor& dout, const Tensor& dx, bool add) const;

  // Norm and shift in front of each mixer.
  NormShiftForward into_time_mix(const ConstTensor& x, const Tensor& halo) const;
  NormShiftForward into_channel_mix(const ConstTensor& x, const Tensor& halo) const;
  // For the backward pass: norm and mixes where they are scratch, the norm alone where mixes are
  // kept and the backend reads it; nothing else. Writes what `op` writes, but not norm.out for
  // others.
  void recompute(NormShiftForward op) const;
  TimeMixOutForward time_mix_out(int64_t head_size) const;
  Wkv7Sequence recurrence() const;
  // Keeps messages to neighbours moving.
  void poll() const {
    if (pass.exchange != nullptr) pass.exchange->poll();
  }
};

}  // namespace rwkv
