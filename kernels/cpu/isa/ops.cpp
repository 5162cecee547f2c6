// All CPU kernels of one instruction set (RWKV_ISA), entered into a table.
#include "kernels/backend.h"
#include "kernels/cpu/isa/attention.h"
#include "kernels/cpu/isa/cross_entropy.h"
#include "kernels/cpu/isa/dropout.h"
#include "kernels/cpu/isa/elementwise.h"
#include "kernels/cpu/isa/norm_shift.h"
#include "kernels/cpu/isa/rope.h"
#include "kernels/cpu/isa/time_mix.h"
#include "kernels/cpu/isa/token_shift.h"
#include "kernels/cpu/isa/wkv7.h"
#include "kernels/cpu/matmul.h"
#include "kernels/relu_squared_product.h"

namespace rwkv::cpu::RWKV_ISA {
namespace {

// Enters the template by the type of the operand that `type_of` picks.
template <class Op, auto type_of, Kernel<Op> in_float, Kernel<Op> in_bf16>
void by_type(const Stream& stream, const Op& op) {
  type_of(op) == DType::kBF16 ? in_bf16(stream, op) : in_float(stream, op);
}

template <class Op>
constexpr auto kOfX = [](const Op& op) { return op.x.dtype; };
template <class Op>
constexpr auto kOfU = [](const Op& op) { return op.u.dtype; };
template <class Op>
constexpr auto kOfDout = [](const Op& op) { return op.dout[0].dtype; };
template <class Op>
constexpr auto kOfKey = [](const Op& op) { return op.key.dtype; };
template <class Op>
constexpr auto kOfR = [](const Op& op) { return op.r.dtype; };
template <class Op>
constexpr auto kOfSequence = [](const Op& op) { return op.in.k.dtype; };

template <class Op>
constexpr auto kOfNorm = [](const Op& op) { return op.norm.x.dtype; };

template <class Op>
constexpr auto kOfQuery = [](const Op& op) { return op.in.q.dtype; };

template <class T>
void norm_shift_forward(const Stream& stream, const NormShiftForward& op) {
  layer_norm_forward<T>(stream, op.norm);
  token_shift_forward<T>(stream, op.shift);
}
template <class T>
void norm_shift_backward(const Stream& stream, const NormShiftBackward& op) {
  token_shift_backward<T>(stream, op.shift);
  layer_norm_backward<T>(stream, op.norm);
}

void loss(const Stream& stream, const CrossEntropy& op) {
  const bool half = !op.dlogits.empty() && op.dlogits.dtype == DType::kBF16;
  half ? cross_entropy<bf16>(stream, op) : cross_entropy<float>(stream, op);
}

void weight_gradient(const Stream& stream, const WeightGradient& op) {
  cpu::weight_gradient(stream, op, add_block);
}

}  // namespace

void fill(Backend& t) {
  constexpr auto activation = by_type<ActivationForward, kOfX<ActivationForward>,
                                      activation_forward<float>, activation_forward<bf16>>;
  constexpr auto gradient = by_type<ActivationBackward, kOfX<ActivationBackward>,
                                    activation_backward<float>, activation_backward<bf16>>;
  t.weight_gradient = weight_gradient;
  t.relu_squared_product = relu_squared_in_turn<cpu::matmul, activation, gradient>;
  t.activation_forward = activation;
  t.activation_backward = gradient;
  t.cast = cast;
  t.sum_squares = sum_squares;
  t.embedding_forward =
      by_type<EmbeddingForward, [](const EmbeddingForward& op) { return op.out.dtype; },
              embedding_forward<float>, embedding_forward<bf16>>;
  t.embedding_backward =
      by_type<EmbeddingBackward, [](const EmbeddingBackward& op) { return op.dout.dtype; },
              embedding_backward<float>, embedding_backward<bf16>>;
  t.layer_norm_forward = by_type<LayerNormForward, kOfX<LayerNormForward>,
                                 layer_norm_forward<float>, layer_norm_forward<bf16>>;
  t.layer_norm_backward = by_type<LayerNormBackward, kOfX<LayerNormBackward>,
                                  layer_norm_backward<float>, layer_norm_backward<bf16>>;
  t.token_shift_forward = by_type<TokenShiftForward, kOfU<TokenShiftForward>,
                                  token_shift_forward<float>, token_shift_forward<bf16>>;
  t.norm_shift_forward = by_type<NormShiftForward, kOfNorm<NormShiftForward>,
                                 norm_shift_forward<float>, norm_shift_forward<bf16>>;
  t.norm_shift_backward = by_type<NormShiftBackward, kOfNorm<NormShiftBackward>,
                                  norm_shift_backward<float>, norm_shift_backward<bf16>>;
  t.halo_forward = by_type<HaloForward, kOfU<HaloForward>, halo_forward<float>, halo_forward<bf16>>;
  t.halo_backward =
      by_type<HaloBackward, kOfDout<HaloBackward>, halo_backward<float>, halo_backward<bf16>>;
  t.time_mix_in_forward = by_type<TimeMixInForward, kOfKey<TimeMixInForward>,
                                  time_mix_in_forward<float>, time_mix_in_forward<bf16>>;
  t.time_mix_in_backward = by_type<TimeMixInBackward, kOfKey<TimeMixInBackward>,
                                   time_mix_in_backward<float>, time_mix_in_backward<bf16>>;
  t.wkv7_map = by_type<Wkv7Map, kOfSequence<Wkv7Map>, wkv7_map<float>, wkv7_map<bf16>>;
  t.wkv7_forward =
      by_type<Wkv7Forward, kOfSequence<Wkv7Forward>, wkv7_forward<float>, wkv7_forward<bf16>>;
  t.wkv7_map_backward = by_type<Wkv7MapBackward, kOfSequence<Wkv7MapBackward>,
                                wkv7_map_backward<float>, wkv7_map_backward<bf16>>;
  t.wkv7_backward =
      by_type<Wkv7Backward, kOfSequence<Wkv7Backward>, wkv7_backward<float>, wkv7_backward<bf16>>;
  t.wkv7_fold = wkv7_fold;
  t.time_mix_out_forward = by_type<TimeMixOutForward, kOfR<TimeMixOutForward>,
                                   time_mix_out_forward<float>, time_mix_out_forward<bf16>>;
  t.time_mix_out_backward = by_type<TimeMixOutBackward, kOfR<TimeMixOutBackward>,
                                    time_mix_out_backward<float>, time_mix_out_backward<bf16>>;
  t.rope = by_type<Rope, kOfX<Rope>, rope<float>, rope<bf16>>;
  t.attention_halo = by_type<AttentionHalo, [](const AttentionHalo& op) { return op.own.dtype; },
                             attention_halo<float>, attention_halo<bf16>>;
  t.attention_forward = by_type<AttentionForward, kOfQuery<AttentionForward>,
                                attention_forward<float>, attention_forward<bf16>>;
  t.attention_backward = by_type<AttentionBackward, kOfQuery<AttentionBackward>,
                                 attention_backward<float>, attention_backward<bf16>>;
  t.dropout = by_type<Dropout, kOfX<Dropout>, dropout<float>, dropout<bf16>>;
  t.cross_entropy = loss;
  t.adamw = adamw;
}

}  // namespace rwkv::cpu::RWKV_ISA
