#include <algorithm>

#include "core/model/model.h"

namespace rwkv {

Workspace::Workspace(const Model& model, const ModelPlan& plan, bool with_memory) : plan_(plan) {
  measure(model);
  if (!with_memory) return;
  memory_ = {Buffer(saved_bytes_, *plan.memory), Buffer(scratch_bytes_, *plan.memory)};
  bind(model, memory_);
}

Workspace::Workspace(const Model& model, const ModelPlan& plan, const WorkspaceMemory& memory)
    : plan_(plan) {
  measure(model);
  bind(model, memory);
}

void Workspace::measure(const Model& model) {
  Arena saved, scratch;
  bind(model, saved, scratch);
  saved_bytes_ = saved.peak();
  scratch_bytes_ = scratch.peak();
  entries_ = saved.entries();
  add_entries(entries_, {{"scratch", scratch_bytes_}});
}

void Workspace::bind(const Model& model, const WorkspaceMemory& memory) {
  require(memory.saved.bytes() >= saved_bytes_ && memory.scratch.bytes() >= scratch_bytes_,
          "a workspace does not fit the memory it is to share");
  Arena saved(memory.saved.data(), memory.saved.bytes());
  Arena scratch(memory.scratch.data(), memory.scratch.bytes());
  bind(model, saved, scratch);
}

void Workspace::bind(const Model& model, Arena& saved, Arena& scratch) {
  const ModelConfig& config = model.config();
  const int64_t rows = plan_.batch * plan_.tokens;
  const DType compute = plan_.precision.compute, acc = plan_.precision.accumulate;
  const Shape sequence{plan_.batch, plan_.tokens, config.width};

  loss = saved.take("loss", acc, {plan_.batch, plan_.tokens});
  best = saved.take("loss", DType::kI32, {plan_.batch, plan_.tokens});
  embedded_ = saved.take("embedding", compute, sequence);
  for (Tensor* t : {&mean0_, &rstd0_, &mean_, &rstd_}) {
    *t = saved.take("norm statistics", acc, {rows});
  }
  v_first_ = saved.take("v_first", compute, sequence);
  x_.clear();
  for (size_t l = 0; l <= model.layers(); ++l) {
    // Without a backward pass the residual stream is updated in place.
    x_.push_back(plan_.backward || l == 0 ? saved.take("residual stream", compute, sequence)
                                          : x_.front());
  }
  bind_states(model, saved);
  if (plan_.backward) {
    dx_ = saved.take("gradients", compute, sequence);
    dv_first_ = saved.take("gradients", acc, sequence);
  }

  const BlockPlan block_plan{plan_.precision, plan_.batch,       plan_.tokens,
                             plan_.threads,   plan_.backward,    plan_.tile,
                             plan_.edges,     plan_.bf16_states, plan_.keep_mixes};
  const int64_t common = saved.mark();
  saved_.clear();
  for (size_t l = 0; l < model.layers(); ++l) {
    if (plan_.recompute || !plan_.backward) saved.rewind(common);
    scratch.rewind(0);
    saved_.push_back(model.block(l).plan(saved, scratch, block_plan));
  }
  scratch.rewind(0);
  normed_ = scratch.take("head", compute, sequence);
  if (plan_.backward) dnormed_ = scratch.take("head", compute, sequence);
  const Shape chunk{std::min(rows, model.head_rows(plan_.leaf, *plan_.memory)), config.vocab};
  logits_ = scratch.take("logits", acc, chunk);
  if (plan_.backward) {
    dlogits_ = compute == acc ? logits_ : scratch.take("logits", compute, chunk);
  }
}

void Workspace::bind_states(const Model& model, Arena& arena) {
  for (States* states : {&entering, &leaving, &dleaving, &dentering}) {
    states->assign(model.layers(), {});
    const bool backward = states == &dleaving || states == &dentering;
    for (size_t l = 0; l < model.layers(); ++l) {
      for (const Carry& carry : model.carries(l)) {
        const bool zero_halo = states == &entering && carry.kind == CarryKind::kHalo;
        const bool none = (backward && !plan_.backward) || plan_.edges == Edges::kSegment ||
                          (plan_.edges == Edges::kWhole && !zero_halo);
        (*states)[l].push_back(none ? Tensor{}
                                    : arena.take("carried states", plan_.precision.accumulate,
                                                 carry.of_batch(plan_.batch)));
      }
    }
  }
}

}  // namespace rwkv
