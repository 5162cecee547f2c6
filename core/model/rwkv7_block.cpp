// The block from top to bottom; where its recurrence and halos meet neighbours: rwkv7_edges.cpp.
#include "core/model/rwkv7_block.h"

#include "core/model/rwkv7_activations.h"

namespace rwkv {

using P = Rwkv7Param;

Rwkv7Block::Rwkv7Block(const ModelConfig& config, int64_t layer)
    : config_(config), layer_(layer), first_(layer == 0) {
  const std::vector<ParamSpec> specs = params();
  const std::string prefix = "blocks." + std::to_string(layer) + ".";
  for (size_t p = 0; p < index_.size(); ++p) {
    index_[p] = -1;
    for (size_t i = 0; i < specs.size(); ++i) {
      if (specs[i].name == prefix + std::string(short_name(static_cast<P>(p)))) {
        index_[p] = static_cast<int>(i);
      }
    }
  }
}

std::vector<ParamSpec> Rwkv7Block::params() const { return rwkv7_params(config_, layer_); }

std::vector<Carry> Rwkv7Block::carries() const {
  const int64_t c = config_.width, n = config_.head_size;
  return {{"att_shift", {c}, CarryKind::kHalo},
          {"wkv", {c / n, n, n}, CarryKind::kAffine},
          {"ffn_shift", {c}, CarryKind::kHalo}};
}

std::unique_ptr<Saved> Rwkv7Block::plan(Arena& saved, Arena& scratch, const BlockPlan& plan) const {
  return std::make_unique<Activations>(saved, scratch, plan, config_, first_);
}

void Rwkv7Block::forward(const Pass& pass, std::span<const Param> params, Saved& saved,
                         const Flow& in, const Flow& out, Boundary entering,
                         Boundary leaving) const {
  const Call call{pass, params, index_, static_cast<Activations&>(saved)};
  // Between the mixes the residual stream is where backward looks for it.
  const Tensor middle = call.a.x_mid.empty() ? out.x : call.a.x_mid;
  time_mix_forward(call, in.x, {middle, out.v_first}, entering, leaving);
  channel_mix_forward(call, middle, out.x, entering, leaving);
}

void Rwkv7Block::backward(const Pass& pass, std::span<const Param> params, Saved& saved,
                          const Flow& in, const Flow& dout, const Flow& din, Boundary entering,
                          Boundary dleaving, Boundary dentering) const {
  const Call call{pass, params, index_, static_cast<Activations&>(saved)};
  if (din.x.data != dout.x.data) pass.ops.cast(pass.stream, {dout.x, din.x});
  if (din.v_first.data != dout.v_first.data) {
    pass.ops.cast(pass.stream, {dout.v_first, din.v_first});
  }
  channel_mix_backward(call, din.x, entering, dleaving, dentering);
  time_mix_backward(call, in.x, in.v_first, din.x, din.v_first, entering, dleaving, dentering);
}

void Rwkv7Block::time_mix_forward(const Call& call, ConstTensor x, const Flow& out,
                                  Boundary entering, Boundary leaving) const {
  const auto& [pass, params, index, a] = call;
  const Backend& ops = pass.ops;
  const Stream& stream = pass.stream;
  norm_shift_forward(call, call.into_time_mix(x, entering[kAttShift]), kAttShift, entering,
                     leaving);
  // What the state's way needs comes first; what it does not need, while maps are travelling.
  call.product(a.mixed[kMixK], P::kKey, a.key);
  call.product(a.mixed[kMixV], P::kValue, a.value);
  call.low_rank_forward(a.decay, P::kW1, P::kW2, a.mixed[kMixW], a.w_raw);
  call.low_rank_forward(a.iclr, P::kA1, P::kA2, a.mixed[kMixA], a.iclr_out);
  if (!first_) call.low_rank_forward(a.residual, P::kV1, P::kV2, a.mixed[kMixV], a.residual_out);
  // The first layer's v is v_first: it is written straight to where the later layers read it.
  a.v = first_ ? out.v_first : a.own_v;
  ops.time_mix_in_forward(stream, {.iclr = a.iclr_out,
                                   .value_gate = a.residual_out,
                                   .key = a.key,
                                   .value = a.value,
                                   .v_first = first_ ? ConstTensor{} : ConstTensor(out.v_first),
                                   .a0 = call.vec(P::kA0),
                                   .k_k = call.vec(P::kKk),
                                   .k_a = call.vec(P::kKa),
                                   .v0 = call.vec(P::kV0),
                                   .head_size = config_.head_size,
                                   .k = a.k,
                                   .v = a.v,
                                   .a = a.a,
                                   .b = a.b});
  maps_forward(call, entering, leaving);
  call.product(a.mixed[kMixR], P::kReceptance, a.r);
  call.poll();
  call.low_rank_forward(a.gate, P::kG1, P::kG2, a.mixed[kMixG], a.g);
  recurrence_forward(call, entering, leaving);
  ops.time_mix_out_forward(stream, call.time_mix_out(config_.head_size));
  // The residual stream: out.x = x + O z.
  ops.matmul(stream, {.a = a.rows(a.z),
                      .b = call.weight(P::kOutput),
                      .c = a.rows(out.x),
                      .trans_b = true,
                      .beta = 1,
                      .add = x.reshaped(a.rows(out.x).shape),
                      .leaves = call.leaves()});
}

void Rwkv7Block::channel_mix_forward(const Call& call, ConstTensor x, Tensor out, Boundary entering,
                                     Boundary leaving) const {
  const auto& [pass, params, index, a] = call;
  norm_shift_forward(call, call.into_channel_mix(x, entering[kFfnShift]), kFfnShift, entering,
                     leaving);
  pass.ops.relu_squared_product(pass.stream,
                                {call.product_of(a.channel_mixed, P::kFfnKey, a.squared)});
  pass.ops.matmul(pass.stream, {.a = a.rows(a.squared),
                                .b = call.weight(P::kFfnValue),
                                .c = a.rows(out),
                                .trans_b = true,
                                .beta = 1,
                                .add = x.reshaped(a.rows(out).shape),
                                .leaves = call.leaves()});
}

void Rwkv7Block::channel_mix_backward(const Call& call, Tensor dx, Boundary entering,
                                      Boundary dleaving, Boundary dentering) const {
  const auto& [pass, params, index, a] = call;
  const Backend& ops = pass.ops;
  call.recompute(call.into_channel_mix(a.x_mid, entering[kFfnShift]));
  call.weight_gradient(dx, a.squared, P::kFfnValue);
  ops.relu_squared_product(
      pass.stream, {call.input_gradient_of(dx, P::kFfnValue, a.dhidden), a.rows(a.squared)});
  call.input_gradient(a.dhidden, P::kFfnKey, a.dmixed[0], false);
  TokenShiftBackward shift{.u = a.u,
                           .halo = entering[kFfnShift],
                           .dhalo_out = {},
                           .mixes = 1,
                           .mix = {},
                           .dout = {},
                           .du = a.du,
                           .dmix = {},
                           .starts = pass.starts,
                           .leaves = call.leaves()};
  shift.mix[0] = call.vec(P::kFfnXk);
  shift.dout[0] = a.dmixed[0];
  shift.dmix[0] = call.grad(P::kFfnXk);
  send_halo_gradient(call, shift, kFfnShift, dleaving, dentering);
  call.weight_gradient(a.dhidden, a.channel_mixed, P::kFfnKey);
  receive_halo_gradient(call, shift, kFfnShift, dleaving);
  ops.norm_shift_backward(
      pass.stream, {{a.x_mid, call.vec(P::kLn2Weight), call.vec(P::kLn2Bias), a.mean2, a.rstd2,
                     a.du, dx, dx, call.grad(P::kLn2Weight), call.grad(P::kLn2Bias), call.leaves()},
                    shift});
}

// From dx to the gradient of what follows the recurrence: dy, dg, and the bonus's and its dv; and z
// again.
void Rwkv7Block::output_backward(const Call& call, ConstTensor dx) const {
  const auto& [pass, params, index, a] = call;
  const Tensor dz = a.dkey;  // not needed yet for what it is named after
  call.input_gradient(dx, P::kOutput, dz, false);
  pass.ops.time_mix_out_backward(pass.stream, {.y = a.y,
                                               .r = a.r,
                                               .k = a.k,
                                               .v = a.v,
                                               .g = a.g,
                                               .ln_weight = call.vec(P::kLnXWeight),
                                               .ln_bias = call.vec(P::kLnXBias),
                                               .r_k = call.vec(P::kRk),
                                               .head_size = config_.head_size,
                                               .dz = dz,
                                               .z = a.z,
                                               .dy = a.dy,
                                               .dv = a.dv,
                                               .dg = a.dg,
                                               .dbonus = a.dbonus,
                                               .dln_weight = call.grad(P::kLnXWeight),
                                               .dln_bias = call.grad(P::kLnXBias),
                                               .dr_k = call.grad(P::kRk),
                                               .leaves = call.leaves()});
}

void Rwkv7Block::low_rank_backward(const Call& call) const {
  const Activations& a = call.a;
  call.low_rank_backward(a.decay, P::kW1, P::kW2, a.mixed[kMixW], a.dw_raw, a.dmixed[kMixW], false);
  call.low_rank_backward(a.iclr, P::kA1, P::kA2, a.mixed[kMixA], a.diclr, a.dmixed[kMixA], false);
  call.low_rank_backward(a.gate, P::kG1, P::kG2, a.mixed[kMixG], a.dg, a.dmixed[kMixG], false);
  if (!first_) {
    call.low_rank_backward(a.residual, P::kV1, P::kV2, a.mixed[kMixV], a.dresidual, a.dmixed[kMixV],
                           true);
  }
}

// From the gradients of the recurrence's operands to those of the six mixes.
void Rwkv7Block::inputs_backward(const Call& call, ConstTensor v_first, Tensor dv_first) const {
  const auto& [pass, params, index, a] = call;
  pass.ops.time_mix_in_backward(pass.stream, {.iclr = a.iclr_out,
                                              .value_gate = a.residual_out,
                                              .key = a.key,
                                              .value = a.value,
                                              .v_first = first_ ? ConstTensor{} : v_first,
                                              .a0 = call.vec(P::kA0),
                                              .k_k = call.vec(P::kKk),
                                              .k_a = call.vec(P::kKa),
                                              .v0 = call.vec(P::kV0),
                                              .head_size = config_.head_size,
                                              .dw_raw = a.dw_raw,
                                              .dk = a.dk,
                                              .dv = a.dv,
                                              .da = a.da,
                                              .db = a.db,
                                              .diclr = a.diclr,
                                              .dvalue_gate = a.dresidual,
                                              .dkey = a.dkey,
                                              .dvalue = a.dvalue,
                                              .dv_first = dv_first,
                                              .dw0 = call.grad(P::kW0),
                                              .da0 = call.grad(P::kA0),
                                              .dk_k = call.grad(P::kKk),
                                              .dk_a = call.grad(P::kKa),
                                              .dv0 = call.grad(P::kV0),
                                              .leaves = call.leaves()});
  call.input_gradient(a.dr, P::kReceptance, a.dmixed[kMixR], false);
  call.input_gradient(a.dkey, P::kKey, a.dmixed[kMixK], false);
  call.input_gradient(a.dvalue, P::kValue, a.dmixed[kMixV], false);
  low_rank_backward(call);
}

void Rwkv7Block::time_mix_backward(const Call& call, ConstTensor x, ConstTensor v_first, Tensor dx,
                                   Tensor dv_first, Boundary entering, Boundary dleaving,
                                   Boundary dentering) const {
  const auto& [pass, params, index, a] = call;
  call.recompute(call.into_time_mix(x, entering[kAttShift]));
  output_backward(call, dx);
  maps_backward(call, dleaving, dentering);
  call.weight_gradient(dx, a.z, P::kOutput);
  recurrence_backward(call, dleaving, dentering);
  inputs_backward(call, v_first, dv_first);
  TokenShiftBackward shift{.u = a.u,
                           .halo = entering[kAttShift],
                           .dhalo_out = {},
                           .mixes = kMaxMixes,
                           .mix = {},
                           .dout = {},
                           .du = a.du,
                           .dmix = {},
                           .starts = pass.starts,
                           .leaves = call.leaves()};
  for (size_t m = 0; m < kMaxMixes; ++m) {
    const P mix = kMixes[m];
    shift.mix[m] = call.vec(mix);
    shift.dout[m] = a.dmixed[m];
    shift.dmix[m] = call.grad(mix);
  }
  send_halo_gradient(call, shift, kAttShift, dleaving, dentering);
  call.weight_gradient(a.dr, a.mixed[kMixR], P::kReceptance);
  call.weight_gradient(a.dkey, a.mixed[kMixK], P::kKey);
  call.weight_gradient(a.dvalue, a.mixed[kMixV], P::kValue);
  receive_halo_gradient(call, shift, kAttShift, dleaving);
  pass.ops.norm_shift_backward(
      pass.stream, {{x, call.vec(P::kLn1Weight), call.vec(P::kLn1Bias), a.mean1, a.rstd1, a.du, dx,
                     dx, call.grad(P::kLn1Weight), call.grad(P::kLn1Bias), call.leaves()},
                    shift});
}

}  // namespace rwkv
