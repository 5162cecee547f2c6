// The whole model: embedding and ln0, blocks, ln_out, head and loss in chunks of rows.
#pragma once

#include <memory>
#include <vector>

#include "core/config/recipe.h"
#include "core/model/block.h"
#include "core/model/param_store.h"

namespace rwkv {

// A micro-batch, in the memory of the pass that takes it. Weights are per token: overlap, padding,
// masks and ignored labels are weight zero.
struct Batch {
  ConstTensor tokens;       // (B, T) i32
  ConstTensor targets;      // (B, T) i32
  ConstTensor weight;       // (B, T) f32
  ConstTensor starts = {};  // (B, T) i32, not 0: a document starts at this token; empty: none does
};

struct ModelPlan {
  Precision precision;
  int64_t batch = 0, tokens = 0;  // B, T of a micro-batch
  int threads = 1;
  bool backward = true;
  bool recompute = false;      // keep only the blocks' inputs; run each block's forward again
  int64_t leaf = 0, tile = 0;  // those of the passes (Pass::leaf, Pass::tile)
  Edges edges = Edges::kGiven;
  const Memory* memory = &host_memory();  // where activations live
  bool bf16_states = false;               // those of the recurrence that are saved
  bool keep_mixes = true;                 // false: norms and mixes are worked out again backward
};

class Model;

// Memory that workspaces of several lengths share, one at a time in use.
struct WorkspaceMemory {
  Buffer saved, scratch;
};

// Activations of one micro-batch, planned once.
class Workspace {
 public:
  // Without memory: only the plan, for `check`.
  Workspace(const Model&, const ModelPlan&, bool with_memory = true);
  // In memory that is large enough (saved_bytes(), scratch_bytes()) and outlives the object.
  Workspace(const Model&, const ModelPlan&, const WorkspaceMemory&);

  const ModelPlan& plan() const { return plan_; }
  Tensor loss;  // (B, T) acc: nats of each token, unweighted
  Tensor best;  // (B, T) i32: the most likely token

  // Carried states, one vector a layer, tensors (B, ...) acc in the order of Block::carries().
  // Edges::kWhole: halos of zero enter, and all else is empty. Edges::kSegment: all are empty until
  // the caller sets them.
  using States = std::vector<std::vector<Tensor>>;
  States entering, leaving, dleaving, dentering;

  // Bytes that are planned; what entries() adds up to.
  int64_t bytes() const { return saved_bytes_ + scratch_bytes_; }
  int64_t saved_bytes() const { return saved_bytes_; }
  int64_t scratch_bytes() const { return scratch_bytes_; }
  // How the planned bytes are used.
  const std::vector<Arena::Entry>& entries() const { return entries_; }

 private:
  friend class Model;
  void measure(const Model&);
  void bind(const Model&, const WorkspaceMemory&);
  void bind(const Model&, Arena& saved, Arena& scratch);
  void bind_states(const Model&, Arena&);

  ModelPlan plan_;
  Tensor embedded_;        // (B, T, C): rows of the table, before ln0
  Tensor mean0_, rstd0_;   // (R) acc
  std::vector<Tensor> x_;  // (B, T, C): the residual stream before each block, and after all
  Tensor v_first_;         // (B, T, C)
  Tensor dx_, dv_first_;   // (B, T, C) compute, acc
  std::vector<std::unique_ptr<Saved>> saved_;  // a layer; they share memory when recomputing
  Tensor normed_, mean_, rstd_;                // ln_out: (B, T, C), (R) acc
  Tensor dnormed_;                             // (B, T, C)
  Tensor logits_, dlogits_;                    // (rows of a head chunk, V) acc, compute
  WorkspaceMemory memory_;                     // empty when it is others'
  int64_t saved_bytes_ = 0, scratch_bytes_ = 0;
  std::vector<Arena::Entry> entries_;
};

class Model {
 public:
  explicit Model(const ModelConfig& resolved);

  const ModelConfig& config() const { return config_; }
  const std::vector<ParamSpec>& params() const { return specs_; }
  size_t layers() const { return blocks_.size(); }
  const Block& block(size_t layer) const { return *blocks_[layer]; }
  // Rows of the head and loss computed at a time: depends on the vocabulary and on whether the
  // memory is a host's, but for a leaf that is longer.
  int64_t head_rows(int64_t leaf, const Memory&) const;
  std::vector<Carry> carries(size_t layer) const { return blocks_[layer]->carries(); }

  // Sets every entering state to zero.
  void reset(Workspace&) const;
  // The leaving states become the entering ones (generation, evaluation in pieces).
  void carry_on(Workspace&) const;

  // Embedding and blocks, from ws.entering; fills ws.leaving.
  void forward(const Pass&, const ParamStore&, Workspace&, ConstTensor tokens) const;
  // ln_out, head, loss of every token: fills ws.loss and ws.best. After forward(). `logits`
  // receives (B, T, V) acc when not empty.
  void loss(const Pass&, const ParamStore&, Workspace&, const Batch&, Tensor logits) const;
  // Logits of the last token of each sequence: (B, V) acc. After forward().
  void last_logits(const Pass&, const ParamStore&, Workspace&, Tensor logits) const;
  // Forward, loss and backward. Accumulates into the store's gradients those of
  // sum over tokens of weight * loss (and L2Wrap), with what comes from the right in ws.dleaving.
  // Fills ws.dentering.
  void forward_backward(const Pass&, const ParamStore&, Workspace&, const Batch&,
                        double l2wrap) const;
  // The second half of it, after forward(), which may have been another pass's: with recomputation
  // blocks run again without an exchange.
  void loss_backward(const Pass&, const ParamStore&, Workspace&, const Batch&, double l2wrap) const;

 private:
  size_t end_of(size_t layer) const;  // the parameter behind its last one
  std::span<const Param> block_params(const ParamStore&, size_t layer) const;
  static void sync(const Pass&, const ParamStore&, size_t first, size_t end);
  void norm_out(const Pass&, const ParamStore&, Workspace&) const;  // the norm before the head
  void head(const Pass&, const ParamStore&, Workspace&, const Batch&, double l2wrap, bool backward,
            Tensor logits) const;

  ModelConfig config_;
  std::vector<ParamSpec> specs_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<size_t> first_param_;  // of each block
  size_t ln0_weight_, ln0_bias_, ln_out_weight_, ln_out_bias_, head_;
};

}  // namespace rwkv
