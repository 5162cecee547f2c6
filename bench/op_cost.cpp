#include "bench/op_cost.h"

#include <initializer_list>

#include "kernels/wkv7_sizes.h"

namespace rwkv::bench {
namespace {

// Bytes of tensors; those that are not there have none. What is read and written stands twice.
OpCost moves(std::initializer_list<ConstTensor> tensors) {
  OpCost sum;
  for (const ConstTensor& t : tensors) sum.bytes += t.empty() ? 0 : static_cast<double>(t.bytes());
  return sum;
}
OpCost operator+(const OpCost& a, const OpCost& b) {
  return {a.flops + b.flops, a.bytes + b.bytes};
}
OpCost times(double factor, const OpCost& c) { return {factor * c.flops, factor * c.bytes}; }

// Chunks of 16 tokens, heads of N: products of a token and head, and the inverse
// (kernels/cuda/wkv7_chunk.h). A map has no outputs, and N rows where a head has its values.
constexpr double kChunk = 16;
double forward_products(double n) { return 16 * kChunk * n + 8 * n * n + kChunk * kChunk * 2 / 3; }
double backward_products(double n) {
  return 44 * kChunk * n + 18 * n * n + kChunk * kChunk * 2 / 3;
}
double token_heads(const Wkv7Sequence& in) {
  return static_cast<double>(in.k.elements() / in.k.shape[3]);
}
double head_size(const Wkv7Sequence& in) { return static_cast<double>(in.k.shape[3]); }
// Of the tiles that a map is made of.
double share(const Wkv7Sequence& in, int64_t first, int64_t end) {
  return static_cast<double>(end - first) / static_cast<double>(wkv7_tiles(in.k.shape[1], in.tile));
}
OpCost map_of(const Wkv7Sequence& in, const ConstTensor& values, int64_t first, int64_t end,
              const ConstTensor& m, const ConstTensor& add) {
  const OpCost reads = times(share(in, first, end), moves({in.k, in.a, in.b, in.w_raw, values}));
  return reads + moves({m, add}) +
         OpCost{2 * share(in, first, end) * token_heads(in) * forward_products(head_size(in)), 0};
}

// Pairs of queries and keys that see one another.
double scores(const AttentionInput& in) {
  const auto tokens = static_cast<double>(in.q.shape[1]);
  const double left = in.k_left.empty() ? 0 : static_cast<double>(in.k_left.shape[1]);
  double pairs = tokens * (left + (tokens + 1) / 2);
  if (in.window > 0) pairs = std::min(pairs, tokens * static_cast<double>(in.window));
  return static_cast<double>(in.q.shape[0] * in.q.shape[2]) * pairs;
}

}  // namespace

OpCost cost(const Matmul& op) {
  const int64_t k = op.trans_a ? op.a.shape[0] : op.a.shape[1];
  const ConstTensor added = op.beta == 0 ? ConstTensor{} : op.add.empty() ? op.c : op.add;
  return moves({op.a, op.b, op.c, added}) +
         OpCost{2 * static_cast<double>(op.c.elements()) * static_cast<double>(k), 0};
}
OpCost cost(const ReluSquaredProduct& op) { return cost(op.product) + moves({op.squared}); }
OpCost cost(const WeightGradient& op) {
  return moves({op.left, op.right, op.to.sum, op.to.sum}) +
         OpCost{
             2 * static_cast<double>(op.to.sum.elements()) * static_cast<double>(op.left.shape[0]),
             0};
}
OpCost cost(const ActivationForward& op) { return moves({op.x, op.y}); }
OpCost cost(const ActivationBackward& op) { return moves({op.x, op.dy, op.dx}); }
OpCost cost(const Cast& op) { return moves({op.from, op.to}); }
OpCost cost(const SumSquares& op) { return moves({op.x}); }
// Rows of the table count as often as a token names them.
OpCost cost(const EmbeddingForward& op) {
  const double row = static_cast<double>(op.table.shape[1] * bytes_of(op.table.dtype));
  return moves({op.tokens, op.out}) + OpCost{0, static_cast<double>(op.tokens.elements()) * row};
}
OpCost cost(const EmbeddingBackward& op) {
  const double row = static_cast<double>(op.dout.elements() / op.tokens.elements() *
                                         bytes_of(op.dtable.sum.dtype));
  return moves({op.tokens, op.dout}) +
         OpCost{0, 2 * static_cast<double>(op.tokens.elements()) * row};
}
OpCost cost(const LayerNormForward& op) { return moves({op.x, op.out}); }
OpCost cost(const LayerNormBackward& op) { return moves({op.x, op.dout, op.residual, op.dx}); }
OpCost cost(const TokenShiftForward& op) {
  OpCost sum = moves({op.u});
  for (const Tensor& out : op.out) sum = sum + moves({out});
  return sum;
}
OpCost cost(const NormShiftForward& op) {
  OpCost sum = moves({op.norm.x, op.keeps_out ? op.norm.out : Tensor{}});
  for (const Tensor& out : op.shift.out) sum = sum + moves({out});
  return sum;
}
OpCost cost(const NormShiftBackward& op) {
  OpCost sum = moves({op.norm.x, op.norm.residual, op.norm.dx});
  for (const ConstTensor& dout : op.shift.dout) sum = sum + moves({dout});
  return sum;
}
OpCost cost(const HaloForward& op) { return moves({op.out, op.out}); }
OpCost cost(const HaloBackward& op) {
  return times(op.mixes, moves({op.dhalo}));  // a row of each gradient
}
OpCost cost(const TimeMixInForward& op) {
  return moves({op.iclr, op.value_gate, op.key, op.value, op.v_first, op.k, op.v, op.a, op.b});
}
OpCost cost(const TimeMixInBackward& op) {
  return moves({op.iclr, op.value_gate, op.key, op.value, op.v_first, op.dw_raw, op.dk, op.dv,
                op.da, op.db, op.diclr, op.dvalue_gate, op.dkey, op.dvalue, op.dv_first,
                op.dv_first});
}
OpCost cost(const Wkv7Map& op) { return map_of(op.in, op.in.v, op.first, op.end, op.m, op.b); }
OpCost cost(const Wkv7Forward& op) {
  const Wkv7Sequence& in = op.in;
  return moves({in.r, in.k, in.v, in.a, in.b, in.w_raw, op.s_in, op.y, op.s_out, op.s_saved}) +
         OpCost{token_heads(in) * forward_products(head_size(in)), 0};
}
OpCost cost(const Wkv7MapBackward& op) { return map_of(op.in, op.dy, op.first, op.end, op.c, {}); }
OpCost cost(const Wkv7Backward& op) {
  const Wkv7Sequence& in = op.in;
  return moves({in.r, in.k, in.v, in.a, in.b, in.w_raw, op.s_saved, op.dy, op.ds_out, op.dr, op.dk,
                op.dv, op.dv, op.da, op.db, op.dw_raw, op.ds_in}) +
         OpCost{token_heads(in) * backward_products(head_size(in)), 0};
}
OpCost cost(const Wkv7Fold& op) {
  const auto tiles = static_cast<double>(op.end - op.first);
  const auto n = static_cast<double>(op.out.shape[3]);
  return times(2 * tiles, moves({op.out})) + moves({op.from, op.out}) +
         OpCost{2 * tiles * n * static_cast<double>(op.out.elements()), 0};
}
OpCost cost(const TimeMixOutForward& op) { return moves({op.y, op.r, op.k, op.v, op.g, op.z}); }
OpCost cost(const TimeMixOutBackward& op) {
  return moves({op.y, op.r, op.k, op.v, op.g, op.dz, op.z, op.dy, op.dv, op.dg, op.dbonus});
}
OpCost cost(const Rope& op) { return moves({op.x, op.out}); }
OpCost cost(const AttentionHalo& op) { return moves({op.out, op.out}); }
OpCost cost(const AttentionForward& op) {
  const AttentionInput& in = op.in;
  return moves({in.q, in.k, in.v, in.k_left, in.v_left, op.y, op.lse}) +
         OpCost{4 * static_cast<double>(in.q.shape[3]) * scores(in), 0};
}
OpCost cost(const AttentionBackward& op) {
  const AttentionInput& in = op.in;
  return moves({in.q, in.k, in.v, in.k_left, in.v_left, op.y, op.dy, op.lse, op.dk_right,
                op.dv_right, op.dq, op.dk, op.dv, op.dk_left, op.dv_left}) +
         OpCost{10 * static_cast<double>(in.q.shape[3]) * scores(in), 0};
}
OpCost cost(const Dropout& op) { return moves({op.x, op.out}); }
OpCost cost(const CrossEntropy& op) { return moves({op.logits, op.dlogits, op.loss}); }
OpCost cost(const AdamW& op) {
  OpCost sum;
  for (const AdamWTensor& t : op.tensors) {
    sum = sum + moves({t.master, t.master, t.m, t.m, t.v, t.v, t.grad, t.compute});
  }
  return sum;
}

}  // namespace rwkv::bench
