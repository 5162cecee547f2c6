// What a block is: a pair of functions over memory that others own. Parameters are bound per call
// (a store may gather, convert or merge them); activations live in a Saved of one micro-batch.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/arena.h"
#include "core/plan/param_spec.h"
#include "kernels/backend.h"
#include "parallel/grad_sync.h"
#include "parallel/state_exchange.h"

namespace rwkv {

// Types of a run. `compute`: activations and operands of products. `accumulate`: what is always
// float32 (float64 under fp64): masters, gradients of parameters, states, statistics, losses.
struct Precision {
  DType compute = DType::kF32;
  DType accumulate = DType::kF32;
};

// One parameter as a block sees it.
struct Param {
  ConstTensor master;   // acc
  ConstTensor compute;  // operand of products in the compute type; equals master where types agree
  TokenSum grad;        // empty: no backward pass will follow
};

// Everything that flows from block to block. v_first leaves the first RWKV block and enters all
// later ones; its gradient gathers from all of them.
struct Flow {
  Tensor x;        // (B, T, C) compute
  Tensor v_first;  // (B, T, C) compute; as a gradient: acc
};

// What a block carries over a boundary in the sequence. This list drives the memory of states,
// stash, dump, generation and the bytes that `check` prints; the exchange
// (parallel/state_exchange.h) is made for a halo, an affine state and a halo, in that order.
enum class CarryKind : uint8_t { kAffine, kHalo };
struct Carry {
  std::string name;  // "wkv", "att_shift", "ffn_shift"
  Shape shape;       // without the batch: (H, N, N) or (C)
  CarryKind kind = CarryKind::kHalo;

  // (batch, shape...)
  Shape of_batch(int64_t batch) const {
    Shape whole{batch};
    for (int i = 0; i < shape.rank; ++i) {
      whole.dim[static_cast<size_t>(whole.rank++)] = shape[i];
    }
    return whole;
  }
};

// One tensor (B, ...) acc for each Carry, in that order. An empty tensor: not wanted; among those
// that enter, a zero state.
using Boundary = std::span<const Tensor>;

// leaf: tokens of a gradient partial and of a call's rows (`parallel.leaf`), so that the bits do
// not depend on how a batch is cut into passes; 0: they may (`parallel.reduction: fast`).
struct Pass {
  Stream stream;
  const Backend& ops;
  int64_t leaf = 0;
  // Tokens after which the recurrent state is folded (`parallel.tile`), counted from the pass's
  // first token; 0: never.
  int64_t tile = 0;
  // Not null: neighbours in the sequence are there, and the pass is one segment. Forward fills
  // what enters, backward what `dleaving` is to hold, from them.
  StateExchange* exchange = nullptr;
  // The pass is a segment whose backward pass will have an exchange, though this one may not.
  bool all_maps = false;
  int64_t overlap = 0;      // last tokens, which the right neighbour runs again
  ConstTensor starts = {};  // (B, T) i32, not 0: a document starts; empty: none does
  double loss_scale = 1;    // what gradients are multiplied by, all of them
  // Not null: this is the last pass that adds to the gradients, and they are summed over ranks as
  // soon as a layer's are complete.
  GradSync* sync = nullptr;

  Leaves leaves(int64_t tokens) const { return {tokens, leaf, 0}; }
};

// Memory of one block for one micro-batch: what forward keeps for backward, and scratch.
class Saved {
 public:
  virtual ~Saved() = default;
};

// Where what is carried comes from and goes to.
enum class Edges : uint8_t {
  kGiven,    // all of it is given and left
  kWhole,    // whole sequences: states enter as zero and none is wanted behind the last token
  kSegment,  // neighbours: Pass::exchange
};

struct BlockPlan {
  Precision precision;
  int64_t batch = 0, tokens = 0;
  int threads = 1;
  bool backward = true;  // false: inference, nothing is kept
  int64_t tile = 0;      // that of the passes (Pass::tile)
  Edges edges = Edges::kGiven;
  bool bf16_states = false;  // those of the recurrence that are saved
  bool keep_mixes = true;    // until the backward pass
};

class Block {
 public:
  virtual ~Block() = default;
  virtual std::vector<ParamSpec> params() const = 0;
  virtual std::vector<Carry> carries() const = 0;

  // Takes what must live until the backward pass from `saved`, everything else from `scratch`,
  // which blocks share one after the other.
  virtual std::unique_ptr<Saved> plan(Arena& saved, Arena& scratch, const BlockPlan&) const = 0;

  // out.x = block(in.x). `entering` are the carried states before the first token (filled here when
  // there is an exchange), `leaving` receives those after the last one. v_first is written by the
  // first RWKV block, read by the others.
  virtual void forward(const Pass&, std::span<const Param>, Saved&, const Flow& in, const Flow& out,
                       Boundary entering, Boundary leaving) const = 0;

  // After a forward pass on the same Saved. dout.x, dout.v_first: gradients of what left the block;
  // din receives those of what entered (din may be dout: in place). Parameter gradients are
  // accumulated. dleaving: gradients of `leaving`, from the right (filled here when there is an
  // exchange). dentering: those of `entering`, overwritten.
  virtual void backward(const Pass&, std::span<const Param>, Saved&, const Flow& in,
                        const Flow& dout, const Flow& din, Boundary entering, Boundary dleaving,
                        Boundary dentering) const = 0;
};

}  // namespace rwkv
