// RWKV-7: time mix, then channel mix (arXiv 2503.14456; formulas in docs/numerics.md).
#pragma once

#include <array>

#include "core/model/block.h"
#include "core/plan/param_table.h"

namespace rwkv {

class Rwkv7Block final : public Block {
 public:
  // `config` is resolved. The first RWKV layer writes v_first and has no value residual.
  Rwkv7Block(const ModelConfig& config, int64_t layer);

  std::vector<ParamSpec> params() const override;
  std::vector<Carry> carries() const override;  // att_shift, wkv, ffn_shift
  std::unique_ptr<Saved> plan(Arena& saved, Arena& scratch, const BlockPlan&) const override;
  void forward(const Pass&, std::span<const Param>, Saved&, const Flow& in, const Flow& out,
               Boundary entering, Boundary leaving) const override;
  void backward(const Pass&, std::span<const Param>, Saved&, const Flow& in, const Flow& dout,
                const Flow& din, Boundary entering, Boundary dleaving,
                Boundary dentering) const override;

 private:
  enum Carried : size_t { kAttShift, kWkv, kFfnShift };
  struct Activations;
  struct Call;  // one forward or backward call: pass, parameters, activations

  void time_mix_forward(const Call&, ConstTensor x, const Flow& out, Boundary entering,
                        Boundary leaving) const;
  void channel_mix_forward(const Call&, ConstTensor x, Tensor out, Boundary entering,
                           Boundary leaving) const;
  void channel_mix_backward(const Call&, Tensor dx, Boundary entering, Boundary dleaving,
                            Boundary dentering) const;
  void time_mix_backward(const Call&, ConstTensor x, ConstTensor v_first, Tensor dx,
                         Tensor dv_first, Boundary entering, Boundary dleaving,
                         Boundary dentering) const;
  void output_backward(const Call&, ConstTensor dx) const;
  void inputs_backward(const Call&, ConstTensor v_first, Tensor dv_first) const;
  void low_rank_backward(const Call&) const;

  // Edges of tiles and segments.
  void norm_shift_forward(const Call&, const NormShiftForward&, size_t which, Boundary entering,
                          Boundary leaving) const;
  void halo_forward(const Call&, const Tensor& u, size_t which, Boundary entering,
                    Boundary leaving) const;
  void send_halo_gradient(const Call&, const TokenShiftBackward&, size_t which, Boundary dleaving,
                          Boundary dentering) const;
  void receive_halo_gradient(const Call&, TokenShiftBackward&, size_t which,
                             Boundary dleaving) const;
  void maps_forward(const Call&, Boundary entering, Boundary leaving) const;
  void recurrence_forward(const Call&, Boundary entering, Boundary leaving) const;
  void maps_backward(const Call&, Boundary dleaving, Boundary dentering) const;
  void recurrence_backward(const Call&, Boundary dleaving, Boundary dentering) const;

  ModelConfig config_;
  int64_t layer_;
  bool first_;
  std::array<int, static_cast<size_t>(Rwkv7Param::kCount)> index_;  // -1: absent
};

}  // namespace rwkv
