// What a SequenceRunner has: workspaces, a segment's part of a batch, the stash, the exchange.
#include <algorithm>

#include "core/model/sequence_runner.h"

namespace rwkv {

// Of each kind of segment that this rank runs, one.
std::vector<Segment> SequenceRunner::kinds() const {
  std::vector<Segment> out;
  const SegmentPlan& all = plan_.segments;
  for (const int64_t group : {int64_t{0}, int64_t{1}, all.groups() - 1}) {
    if (group >= all.groups()) continue;
    const auto segment = all.at(group, sequence_.rank());
    if (segment) out.push_back(*segment);
  }
  return out;
}

// Their lengths.
std::vector<int64_t> SequenceRunner::lengths() const {
  std::vector<int64_t> out;
  for (const Segment& segment : kinds()) out.push_back(segment.tokens());
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

// A workspace runs segments of several kinds: bf16 where all of them save so.
bool SequenceRunner::saves_bf16_states() const {
  const std::vector<Segment> all = kinds();
  return ops_.saves_bf16_states != nullptr &&
         std::all_of(all.begin(), all.end(), [&](const Segment& s) {
           return ops_.saves_bf16_states(plan_.model.precision.compute, model_.config().head_size,
                                         plan_.model.tile,
                                         wkv7_before_overlap(s.tokens(), s.end - s.handed));
         });
}

void SequenceRunner::plan_workspaces(bool with_memory) {
  ModelPlan plan = plan_.model;
  plan.memory = ops_.memory;
  plan.bf16_states = saves_bf16_states();
  plan.edges = !plan_.whole() ? Edges::kSegment : plan_.leaves ? Edges::kGiven : Edges::kWhole;
  int64_t saved = 0, scratch = 0;
  for (const int64_t tokens : lengths()) {
    plan.tokens = tokens;
    const Workspace measured(model_, plan, false);
    saved = std::max(saved, measured.saved_bytes());
    scratch = std::max(scratch, measured.scratch_bytes());
    entries_ = measured.entries();  // of the longest
  }
  if (!with_memory) return;
  activations_ = {Buffer(saved, *ops_.memory), Buffer(scratch, *ops_.memory)};
  for (const int64_t tokens : lengths()) {
    plan.tokens = tokens;
    workspaces_[tokens] = std::make_unique<Workspace>(model_, plan, activations_);
  }
}

void SequenceRunner::bind(Arena& arena) {
  for (const int64_t tokens : lengths()) {
    cuts_[tokens] = take_cut(arena, {plan_.model.batch, tokens});
  }
  if (!plan_.whole()) bind_edges(arena);
}

SequenceRunner::Cut SequenceRunner::take_cut(Arena& arena, const Shape& shape) {
  const auto take = [&](DType type) { return arena.take("tokens", type, shape); };
  return {take(DType::kI32), take(DType::kI32), take(DType::kF32), take(DType::kI32)};
}

void SequenceRunner::bind_host() {
  if (stashes_on_host()) host_stash_ = Buffer(plan_.span() * slot_bytes_);
  if (ops_.memory->host) {
    host_cuts_ = cuts_;
    return;
  }
  const auto take = [&](Arena& arena) {
    for (const int64_t tokens : lengths()) {
      host_cuts_[tokens] = take_cut(arena, {plan_.model.batch, tokens});
    }
  };
  Arena measured;
  take(measured);
  host_memory_ = Buffer(measured.peak());
  Arena real(host_memory_.data(), host_memory_.bytes());
  take(real);
}

void SequenceRunner::bind_edges(Arena& arena) {
  const ModelPlan& m = plan_.model;
  const ModelConfig& config = model_.config();
  const bool keeps = m.backward && plan_.handing.gradient;
  const int64_t before = arena.peak();
  slots_.clear();
  const int64_t slots = stashes_on_host() ? 1 : plan_.span();
  for (int64_t i = 0; i < slots; ++i) slots_.push_back(take_states(arena, "stash"));
  slot_bytes_ = (arena.peak() - before) / slots;
  if (plan_.handing.state) {
    const bool alone = sequence_.size() == 1 && m.tile == 0 && plan_.segments.overlap == 0;
    exchange_ = make_exchange(alone ? ExchangeKind{"pass_on", 1} : plan_.exchange, sequence_, ops_,
                              exchange_layout(plan_, model_.config()), arena);
    const int64_t exchanging = arena.peak();
    snapshots_ =
        arena.take("stash", DType::kU8, {keeps ? plan_.spans() - 1 : 0, exchange_->carry_bytes()});
    stash_bytes_ = plan_.span() * slot_bytes_ + arena.peak() - exchanging;
  }
  if (plan_.enters) initial_ = take_states(arena, "carried states");
  if (plan_.leaves) leaving_ = take_states(arena, "carried states");
  const Shape halo{m.batch, config.width};
  const Shape state{m.batch, config.width / config.head_size, config.head_size, config.head_size};
  dleaving_.assign(3, {});
  dentering_.assign(3, {});
  if (keeps) {
    const auto take = [&](const Shape& shape) {
      return arena.take("exchange", m.precision.accumulate, shape);
    };
    dleaving_ = {take(halo), take(state), take(halo)};
    dentering_ = {take(halo), Tensor{}, take(halo)};
  }
}

SequenceRunner::States SequenceRunner::take_states(Arena& arena, std::string_view name) const {
  const ModelPlan& m = plan_.model;
  States states(model_.layers());
  for (size_t l = 0; l < model_.layers(); ++l) {
    for (const Carry& carry : model_.carries(l)) {
      states[l].push_back(arena.take(name, m.precision.accumulate, carry.of_batch(m.batch)));
    }
  }
  return states;
}

}  // namespace rwkv
