// The oracle: one readable loop nest a formula, float64 and float32.
#include "kernels/backend.h"
#include "kernels/reference/adamw.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/cross_entropy.h"
#include "kernels/reference/dropout.h"
#include "kernels/reference/elementwise.h"
#include "kernels/reference/embedding.h"
#include "kernels/reference/layer_norm.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/time_mix.h"
#include "kernels/reference/token_shift.h"
#include "kernels/reference/wkv7.h"
#include "kernels/relu_squared_product.h"

namespace rwkv {
namespace {

// Enters the template by the type of the operand that `type_of` picks.
template <class Op, auto type_of, Kernel<Op> in_double, Kernel<Op> in_float>
void by_type(const Stream& stream, const Op& op) {
  switch (type_of(op)) {
    case DType::kF64:
      return in_double(stream, op);
    case DType::kF32:
      return in_float(stream, op);
    default:
      throw Error("internal: the reference kernels run in f64 and f32 only");
  }
}

void cast_any(const Stream& stream, const Cast& op) {
  const bool from64 = op.from.dtype == DType::kF64, to64 = op.to.dtype == DType::kF64;
  if (from64 && to64) return reference::cast<double, double>(stream, op);
  if (from64) return reference::cast<double, float>(stream, op);
  if (to64) return reference::cast<float, double>(stream, op);
  reference::cast<float, float>(stream, op);
}

template <class Op>
constexpr auto kOfX = [](const Op& op) { return op.x.dtype; };
template <class Op>
constexpr auto kOfU = [](const Op& op) { return op.u.dtype; };
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

template <class S>
void norm_shift_forward(const Stream& stream, const NormShiftForward& op) {
  reference::layer_norm_forward<S>(stream, op.norm);
  reference::token_shift_forward<S>(stream, op.shift);
}
template <class S>
void norm_shift_backward(const Stream& stream, const NormShiftBackward& op) {
  reference::token_shift_backward<S>(stream, op.shift);
  reference::layer_norm_backward<S>(stream, op.norm);
}

Backend make_table() {
  namespace ref = reference;
  Backend t{};
  t.name = "reference";
  t.isa = "generic";
  t.build = "gcc " __VERSION__;
  t.f64 = true;
  constexpr auto product = by_type<Matmul, [](const Matmul& op) { return op.a.dtype; },
                                   ref::matmul<double>, ref::matmul<float>>;
  constexpr auto activation =
      by_type<ActivationForward, kOfX<ActivationForward>, ref::activation_forward<double>,
              ref::activation_forward<float>>;
  constexpr auto gradient =
      by_type<ActivationBackward, kOfX<ActivationBackward>, ref::activation_backward<double>,
              ref::activation_backward<float>>;
  t.matmul = product;
  t.relu_squared_product = relu_squared_in_turn<product, activation, gradient>;
  t.weight_gradient =
      by_type<WeightGradient, [](const WeightGradient& op) { return op.left.dtype; },
              ref::weight_gradient<double>, ref::weight_gradient<float>>;
  t.activation_forward = activation;
  t.activation_backward = gradient;
  t.cast = cast_any;
  t.sum_squares = [](const Stream& stream, const SumSquares& op) {
    if (op.x.dtype == DType::kI64) return ref::sum_squares<int64_t>(stream, op);
    by_type<SumSquares, kOfX<SumSquares>, ref::sum_squares<double>, ref::sum_squares<float>>(stream,
                                                                                             op);
  };
  t.embedding_forward =
      by_type<EmbeddingForward, [](const EmbeddingForward& op) { return op.out.dtype; },
              ref::embedding_forward<double>, ref::embedding_forward<float>>;
  t.embedding_backward =
      by_type<EmbeddingBackward, [](const EmbeddingBackward& op) { return op.dout.dtype; },
              ref::embedding_backward<double>, ref::embedding_backward<float>>;
  t.layer_norm_forward = by_type<LayerNormForward, kOfX<LayerNormForward>,
                                 ref::layer_norm_forward<double>, ref::layer_norm_forward<float>>;
  t.layer_norm_backward =
      by_type<LayerNormBackward, kOfX<LayerNormBackward>, ref::layer_norm_backward<double>,
              ref::layer_norm_backward<float>>;
  t.token_shift_forward =
      by_type<TokenShiftForward, kOfU<TokenShiftForward>, ref::token_shift_forward<double>,
              ref::token_shift_forward<float>>;
  t.norm_shift_forward = by_type<NormShiftForward, kOfNorm<NormShiftForward>,
                                 norm_shift_forward<double>, norm_shift_forward<float>>;
  t.norm_shift_backward = by_type<NormShiftBackward, kOfNorm<NormShiftBackward>,
                                  norm_shift_backward<double>, norm_shift_backward<float>>;
  t.halo_forward =
      by_type<HaloForward, kOfU<HaloForward>, ref::halo_forward<double>, ref::halo_forward<float>>;
  t.halo_backward = by_type<HaloBackward, [](const HaloBackward& op) { return op.dout[0].dtype; },
                            ref::halo_backward<double>, ref::halo_backward<float>>;
  t.time_mix_in_forward =
      by_type<TimeMixInForward, kOfKey<TimeMixInForward>, ref::time_mix_in_forward<double>,
              ref::time_mix_in_forward<float>>;
  t.time_mix_in_backward =
      by_type<TimeMixInBackward, kOfKey<TimeMixInBackward>, ref::time_mix_in_backward<double>,
              ref::time_mix_in_backward<float>>;
  t.wkv7_map = by_type<Wkv7Map, kOfSequence<Wkv7Map>, ref::wkv7_map<double>, ref::wkv7_map<float>>;
  t.wkv7_forward = by_type<Wkv7Forward, kOfSequence<Wkv7Forward>, ref::wkv7_forward<double>,
                           ref::wkv7_forward<float>>;
  t.wkv7_map_backward = by_type<Wkv7MapBackward, kOfSequence<Wkv7MapBackward>,
                                ref::wkv7_map_backward<double>, ref::wkv7_map_backward<float>>;
  t.wkv7_backward = by_type<Wkv7Backward, kOfSequence<Wkv7Backward>, ref::wkv7_backward<double>,
                            ref::wkv7_backward<float>>;
  t.wkv7_fold = by_type<Wkv7Fold, [](const Wkv7Fold& op) { return op.out.dtype; },
                        ref::wkv7_fold<double>, ref::wkv7_fold<float>>;
  t.time_mix_out_forward =
      by_type<TimeMixOutForward, kOfR<TimeMixOutForward>, ref::time_mix_out_forward<double>,
              ref::time_mix_out_forward<float>>;
  t.time_mix_out_backward =
      by_type<TimeMixOutBackward, kOfR<TimeMixOutBackward>, ref::time_mix_out_backward<double>,
              ref::time_mix_out_backward<float>>;
  t.rope = by_type<Rope, kOfX<Rope>, ref::rope<double>, ref::rope<float>>;
  t.attention_halo = by_type<AttentionHalo, [](const AttentionHalo& op) { return op.own.dtype; },
                             ref::attention_halo<double>, ref::attention_halo<float>>;
  t.attention_forward = by_type<AttentionForward, kOfQuery<AttentionForward>,
                                ref::attention_forward<double>, ref::attention_forward<float>>;
  t.attention_backward = by_type<AttentionBackward, kOfQuery<AttentionBackward>,
                                 ref::attention_backward<double>, ref::attention_backward<float>>;
  t.dropout = by_type<Dropout, kOfX<Dropout>, ref::dropout<double>, ref::dropout<float>>;
  t.cross_entropy = by_type<CrossEntropy, [](const CrossEntropy& op) { return op.logits.dtype; },
                            ref::cross_entropy<double>, ref::cross_entropy<float>>;
  t.adamw = by_type<AdamW, [](const AdamW& op) { return op.tensors[0].master.dtype; },
                    ref::adamw<double>, ref::adamw<float>>;
  return t;
}

}  // namespace

const Backend& reference_backend() {
  static const Backend table = make_table();
  return table;
}

}  // namespace rwkv
