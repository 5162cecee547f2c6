#include "core/model/rwkv7_activations.h"

namespace rwkv {

using P = Rwkv7Param;

Rwkv7Block::Activations::Activations(Arena& saved, Arena& scratch, const BlockPlan& plan,
                                     const ModelConfig& model, bool first)
    : batch_(plan.batch), tokens_(plan.tokens), width_(model.width), head_size_(model.head_size) {
  const int64_t rows = batch_ * tokens_, heads = width_ / head_size_;
  const DType compute = plan.precision.compute, acc = plan.precision.accumulate;
  const auto keep = [&](std::string_view name, const Shape& shape) {
    return saved.take(name, compute, shape);
  };
  const auto borrow = [&](std::string_view name, const Shape& shape) {
    return scratch.take(name, compute, shape);
  };
  const Shape sequence{batch_, tokens_, width_}, flat{rows, width_};
  for (Tensor* t : {&mean1, &rstd1, &mean2, &rstd2})
    *t = saved.take("norm statistics", acc, {rows});
  for (Tensor* t : {&r, &w_raw, &key, &value, &k, &a, &b, &g, &y, &iclr_out}) {
    *t = keep("time mix", flat);
  }
  if (!first) {
    own_v = keep("time mix", flat);
    residual_out = keep("time mix", flat);
  }
  squared = keep("channel mix hidden", {rows, model.ffn_width});
  iclr.active = residual.active = false;
  gate.f = Activation::kSigmoid;
  keeps_mixes = plan.backward && plan.keep_mixes;
  plan_low_rank(saved, scratch, decay, model.lora_rank.decay, plan);
  plan_low_rank(saved, scratch, iclr, model.lora_rank.iclr, plan);
  plan_low_rank(saved, scratch, gate, model.lora_rank.gate, plan);
  if (!first) plan_low_rank(saved, scratch, residual, model.lora_rank.value, plan);

  Arena& mixes = keeps_mixes ? saved : scratch;
  for (Tensor& t : mixed) t = mixes.take("mixes", compute, sequence);
  channel_mixed = keeps_mixes ? keep("mixes", sequence) : mixed[0];
  u = borrow("normed", sequence);
  z = borrow("time mix output", flat);
  plan_tiles(saved, scratch, plan);
  halo_row = scratch.take("halo", acc, {batch_, width_});
  if (!plan.backward) return;
  x_mid = keep("residual stream", sequence);
  states = saved.take("states", plan.bf16_states ? DType::kBF16 : acc,
                      {batch_, heads, wkv7_saved_states(tokens_, plan.tile), head_size_,
                       wkv7_state_stride(head_size_)});
  for (Tensor& t : dmixed) t = borrow("gradients of mixes", sequence);
  dhidden = borrow("channel mix hidden", {rows, model.ffn_width});
  du = borrow("gradients", sequence);
  for (Tensor* t :
       {&dy, &dr, &dw_raw, &dk, &dv, &da, &db, &dkey, &dvalue, &diclr, &dresidual, &dg}) {
    *t = borrow("gradients", flat);
  }
  dbonus = scratch.take("gradients", acc, {rows, heads});
  wkv_scratch = scratch.take("recurrence", acc, {plan.threads, wkv7_backward_scratch(head_size_)});
}

void Rwkv7Block::Activations::plan_tiles(Arena& saved, Arena& scratch, const BlockPlan& plan) {
  const int64_t tiles = wkv7_tiles(tokens_, plan.tile);
  // Of whole sequences the first tile starts from zero, and behind the last is nothing.
  const bool needed = plan.edges == Edges::kSegment || (plan.tile > 0 && tiles > 2) ||
                      (plan.tile > 0 && plan.edges == Edges::kGiven);
  if (!needed) return;
  const Shape shape{tiles, batch_, width_ / head_size_, head_size_, wkv7_state_stride(head_size_)};
  tile_maps = (plan.backward ? saved : scratch).take("tile maps", plan.precision.accumulate, shape);
  tile_states = scratch.take("tile maps", plan.precision.accumulate, shape);
}

void Rwkv7Block::Activations::plan_low_rank(Arena& saved, Arena& scratch, LowRank& mlp,
                                            int64_t rank, const BlockPlan& plan) {
  const Shape shape{batch_ * tokens_, rank};
  const DType compute = plan.precision.compute;
  mlp.inner = saved.take("low rank", compute, shape);
  mlp.outer =
      mlp.active ? (keeps_mixes ? saved : scratch).take("low rank", compute, shape) : mlp.inner;
  if (plan.backward) mlp.gradient = scratch.take("low rank", compute, shape);
}

Tensor Rwkv7Block::Activations::rows(const Tensor& t) const {
  const int64_t count = batch_ * tokens_;
  return t.reshaped({count, t.elements() / count});
}

Tensor Rwkv7Block::Activations::heads(const Tensor& t) const {
  return t.reshaped({batch_, tokens_, width_ / head_size_, head_size_});
}

ConstTensor Rwkv7Block::Call::vec(Rwkv7Param p) const {
  const int i = index[static_cast<size_t>(p)];
  return i < 0 ? ConstTensor{} : params[static_cast<size_t>(i)].master;
}

ConstTensor Rwkv7Block::Call::weight(Rwkv7Param p) const {
  return params[static_cast<size_t>(index[static_cast<size_t>(p)])].compute;
}

TokenSum Rwkv7Block::Call::grad(Rwkv7Param p) const {
  const int i = index[static_cast<size_t>(p)];
  return i < 0 ? TokenSum{} : params[static_cast<size_t>(i)].grad;
}

Matmul Rwkv7Block::Call::product_of(const Tensor& x, Rwkv7Param w, const Tensor& out) const {
  return {.a = a.rows(x), .b = weight(w), .c = a.rows(out), .trans_b = true, .leaves = leaves()};
}

void Rwkv7Block::Call::product(const Tensor& x, Rwkv7Param w, const Tensor& out) const {
  pass.ops.matmul(pass.stream, product_of(x, w, out));
}

void Rwkv7Block::Call::weight_gradient(const ConstTensor& dout, const Tensor& x,
                                       Rwkv7Param w) const {
  const TokenSum gradient = grad(w);
  pass.ops.weight_gradient(pass.stream,
                           {.left = dout.reshaped({a.rows(x).shape[0], gradient.sum.shape[0]}),
                            .right = a.rows(x),
                            .to = gradient,
                            .leaves = leaves()});
}

Matmul Rwkv7Block::Call::input_gradient_of(const ConstTensor& dout, Rwkv7Param w,
                                           const Tensor& dx) const {
  const Tensor to = a.rows(dx);
  return {.a = dout.reshaped({to.shape[0], weight(w).shape[0]}),
          .b = weight(w),
          .c = to,
          .leaves = leaves()};
}

void Rwkv7Block::Call::input_gradient(const ConstTensor& dout, Rwkv7Param w, const Tensor& dx,
                                      bool add) const {
  Matmul op = input_gradient_of(dout, w, dx);
  if (add) op.beta = 1;
  pass.ops.matmul(pass.stream, op);
}

void Rwkv7Block::Call::low_rank_forward(const LowRank& mlp, Rwkv7Param w1, Rwkv7Param w2,
                                        const Tensor& x, const Tensor& out) const {
  pass.ops.matmul(pass.stream,
                  {.a = a.rows(x), .b = weight(w1), .c = mlp.inner, .leaves = leaves()});
  if (mlp.active) pass.ops.activation_forward(pass.stream, {mlp.f, mlp.inner, mlp.outer});
  pass.ops.matmul(pass.stream,
                  {.a = mlp.outer, .b = weight(w2), .c = a.rows(out), .leaves = leaves()});
}

void Rwkv7Block::Call::low_rank_backward(const LowRank& mlp, Rwkv7Param w1, Rwkv7Param w2,
                                         const Tensor& x, const Tensor& dout, const Tensor& dx,
                                         bool add) const {
  if (mlp.active && !a.keeps_mixes) {
    pass.ops.activation_forward(pass.stream, {mlp.f, mlp.inner, mlp.outer});
  }
  pass.ops.weight_gradient(
      pass.stream, {.left = mlp.outer, .right = a.rows(dout), .to = grad(w2), .leaves = leaves()});
  pass.ops.matmul(
      pass.stream,
      {.a = a.rows(dout), .b = weight(w2), .c = mlp.gradient, .trans_b = true, .leaves = leaves()});
  if (mlp.active) {
    pass.ops.activation_backward(pass.stream, {mlp.f, mlp.inner, mlp.gradient, mlp.gradient});
  }
  pass.ops.weight_gradient(
      pass.stream, {.left = a.rows(x), .right = mlp.gradient, .to = grad(w1), .leaves = leaves()});
  pass.ops.matmul(pass.stream, {.a = mlp.gradient,
                                .b = weight(w1),
                                .c = a.rows(dx),
                                .trans_b = true,
                                .beta = add ? 1.0f : 0.0f,
                                .leaves = leaves()});
}

NormShiftForward Rwkv7Block::Call::into_time_mix(const ConstTensor& x, const Tensor& halo) const {
  NormShiftForward op{{.x = x,
                       .weight = vec(P::kLn1Weight),
                       .bias = vec(P::kLn1Bias),
                       .out = a.u,
                       .mean = a.mean1,
                       .rstd = a.rstd1},
                      {.u = a.u,
                       .halo = halo,
                       .mixes = kMaxMixes,
                       .mix = {},
                       .out = a.mixed,
                       .starts = pass.starts}};
  for (size_t m = 0; m < kMaxMixes; ++m) op.shift.mix[m] = vec(kMixes[m]);
  return op;
}

NormShiftForward Rwkv7Block::Call::into_channel_mix(const ConstTensor& x,
                                                    const Tensor& halo) const {
  NormShiftForward op{
      {.x = x,
       .weight = vec(P::kLn2Weight),
       .bias = vec(P::kLn2Bias),
       .out = a.u,
       .mean = a.mean2,
       .rstd = a.rstd2},
      {.u = a.u, .halo = halo, .mixes = 1, .mix = {}, .out = {}, .starts = pass.starts}};
  op.shift.mix[0] = vec(P::kFfnXk);
  op.shift.out[0] = a.channel_mixed;
  return op;
}

void Rwkv7Block::Call::recompute(NormShiftForward op) const {
  op.keeps_out = false;
  if (!a.keeps_mixes) {
    pass.ops.norm_shift_forward(pass.stream, op);
  } else if (pass.ops.norm_backward_reads_out) {
    pass.ops.layer_norm_forward(pass.stream, op.norm);
  }
}

TimeMixOutForward Rwkv7Block::Call::time_mix_out(int64_t head_size) const {
  return {.y = a.y,
          .r = a.r,
          .k = a.k,
          .v = a.v,
          .g = a.g,
          .ln_weight = vec(P::kLnXWeight),
          .ln_bias = vec(P::kLnXBias),
          .r_k = vec(P::kRk),
          .head_size = head_size,
          .z = a.z};
}

Wkv7Sequence Rwkv7Block::Call::recurrence() const {
  return {.r = a.heads(a.r),
          .k = a.heads(a.k),
          .v = a.heads(a.v),
          .a = a.heads(a.a),
          .b = a.heads(a.b),
          .w_raw = a.heads(a.w_raw),
          .w0 = vec(Rwkv7Param::kW0),
          .starts = pass.starts,
          .tile = pass.tile,
          .overlap = pass.overlap};
}

}  // namespace rwkv
