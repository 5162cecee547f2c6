// The table of ops, of whatever machine device_backend.h is.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/adamw_ops.h"
#include "kernels/cuda/attention_backward_ops.h"
#include "kernels/cuda/dropout_ops.h"
#include "kernels/cuda/elementwise_ops.h"
#include "kernels/cuda/head_ops.h"
#include "kernels/cuda/matmul_ops.h"
#include "kernels/cuda/norm_backward_ops.h"
#include "kernels/cuda/time_mix_backward_ops.h"
#include "kernels/cuda/wkv7_backward_ops.h"
#include "kernels/relu_squared_product.h"

namespace rwkv::cuda {

// The tensor by whose type an op's kernels are chosen.
inline DType type_of(const Matmul& op) { return op.a.dtype; }
inline DType type_of(const WeightGradient& op) { return op.left.dtype; }
inline DType type_of(const ActivationForward& op) { return op.x.dtype; }
inline DType type_of(const ActivationBackward& op) { return op.x.dtype; }
inline DType type_of(const EmbeddingForward& op) { return op.out.dtype; }
inline DType type_of(const EmbeddingBackward& op) { return op.dout.dtype; }
inline DType type_of(const LayerNormForward& op) { return op.x.dtype; }
inline DType type_of(const LayerNormBackward& op) { return op.x.dtype; }
inline DType type_of(const TokenShiftForward& op) { return op.u.dtype; }
inline DType type_of(const NormShiftForward& op) { return op.norm.x.dtype; }
inline DType type_of(const NormShiftBackward& op) { return op.norm.x.dtype; }
inline DType type_of(const HaloForward& op) { return op.u.dtype; }
inline DType type_of(const HaloBackward& op) { return op.dout[0].dtype; }
inline DType type_of(const TimeMixInForward& op) { return op.key.dtype; }
inline DType type_of(const TimeMixInBackward& op) { return op.key.dtype; }
inline DType type_of(const Wkv7Map& op) { return op.in.k.dtype; }
inline DType type_of(const Wkv7Forward& op) { return op.in.k.dtype; }
inline DType type_of(const Wkv7MapBackward& op) { return op.in.k.dtype; }
inline DType type_of(const Wkv7Backward& op) { return op.in.k.dtype; }
inline DType type_of(const TimeMixOutForward& op) { return op.r.dtype; }
inline DType type_of(const TimeMixOutBackward& op) { return op.r.dtype; }
inline DType type_of(const Rope& op) { return op.x.dtype; }
inline DType type_of(const AttentionHalo& op) { return op.own.dtype; }
inline DType type_of(const AttentionForward& op) { return op.in.q.dtype; }
inline DType type_of(const AttentionBackward& op) { return op.in.q.dtype; }
inline DType type_of(const Dropout& op) { return op.x.dtype; }

template <template <class> class F, class Op>
void typed(const Stream& stream, const Op& op) {
  by_type<F>(type_of(op), stream, op);
}

inline Backend make_table(std::string_view name, std::string_view isa) {
  Backend t{};
  t.name = name;
  t.isa = isa;
  t.bf16 = t.fp16 = true;
  t.matmul = typed<MatmulOp, Matmul>;
  t.relu_squared_product =
      relu_squared_in_turn<typed<MatmulOp, Matmul>, typed<ActivationForwardOp, ActivationForward>,
                           typed<ActivationBackwardOp, ActivationBackward>>;
  t.weight_gradient = typed<WeightGradientOp, WeightGradient>;
  t.activation_forward = typed<ActivationForwardOp, ActivationForward>;
  t.activation_backward = typed<ActivationBackwardOp, ActivationBackward>;
  t.embedding_forward = typed<EmbeddingForwardOp, EmbeddingForward>;
  t.embedding_backward = typed<EmbeddingBackwardOp, EmbeddingBackward>;
  t.layer_norm_forward = typed<LayerNormForwardOp, LayerNormForward>;
  t.layer_norm_backward = typed<LayerNormBackwardOp, LayerNormBackward>;
  t.token_shift_forward = typed<TokenShiftForwardOp, TokenShiftForward>;
  t.norm_shift_forward = typed<NormShiftForwardOp, NormShiftForward>;
  t.norm_shift_backward = typed<NormShiftBackwardOp, NormShiftBackward>;
  t.halo_forward = typed<HaloForwardOp, HaloForward>;
  t.halo_backward = typed<HaloBackwardOp, HaloBackward>;
  t.time_mix_in_forward = typed<TimeMixInForwardOp, TimeMixInForward>;
  t.time_mix_in_backward = typed<TimeMixInBackwardOp, TimeMixInBackward>;
  t.wkv7_map = typed<Wkv7MapOp, Wkv7Map>;
  t.wkv7_forward = typed<Wkv7ForwardOp, Wkv7Forward>;
  t.wkv7_map_backward = typed<Wkv7MapBackwardOp, Wkv7MapBackward>;
  t.wkv7_backward = typed<Wkv7BackwardOp, Wkv7Backward>;
  t.time_mix_out_forward = typed<TimeMixOutForwardOp, TimeMixOutForward>;
  t.time_mix_out_backward = typed<TimeMixOutBackwardOp, TimeMixOutBackward>;
  t.rope = typed<RopeOp, Rope>;
  t.attention_halo = typed<AttentionHaloOp, AttentionHalo>;
  t.attention_forward = typed<AttentionForwardOp, AttentionForward>;
  t.attention_backward = typed<AttentionBackwardOp, AttentionBackward>;
  t.dropout = typed<DropoutOp, Dropout>;
  t.saves_bf16_states = wkv7_saves_bf16;
  t.norm_backward_reads_out = false;
  t.check_sizes = [](int64_t width, int64_t head_size) {
    norm_threads(width, width % 8 == 0 ? 8 : 1);
    check_head_size(head_size);
  };
  t.cast = cast;
  t.sum_squares = sum_squares;
  t.wkv7_fold = wkv7_fold;
  t.cross_entropy = cross_entropy;
  t.adamw = adamw;
  return t;
}

}  // namespace rwkv::cuda
