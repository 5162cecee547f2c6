#include "core/model/sequence_runner.h"

#include <algorithm>

namespace rwkv {
namespace {

enum Carried : size_t { kFirstHalo, kState, kSecondHalo };  // of every block that has neighbours

// Columns [begin, end) of a (B, T) tensor.
template <class T>
void cut_columns(const ConstTensor& from, int64_t begin, int64_t end, const Tensor& to) {
  const int64_t all = from.shape[1], n = end - begin;
  for (int64_t b = 0; b < from.shape[0]; ++b) {
    std::copy_n(from.as<T>() + b * all + begin, n, to.as<T>() + b * n);
  }
}

}  // namespace

SequenceRunner::SequenceRunner(const Model& model, const SequencePlan& plan, Communicator& sequence,
                               const Backend& ops, bool with_memory)
    : model_(model),
      plan_(plan),
      sequence_(sequence),
      ops_(ops),
      recorded_(plan.records ? ops.recording : nullptr) {
  // The first segment would hand on what entered it, and none of its own tokens.
  const bool through = plan_.segments.overlap == plan_.segments.chunk;
  require(!plan_.enters || (plan_.handing.state && !through),
          "a state enters where states are handed on, and the overlap is shorter than a segment");
  plan_workspaces(with_memory);
  if (!copies_batch()) return;
  Arena arena;
  bind(arena);
  add_entries(entries_, arena.entries());
  if (!with_memory) return;
  memory_ = Buffer(arena.peak(), *ops_.memory);
  Arena real(memory_.data(), memory_.bytes());
  bind(real);
  bind_host();
}

const SequenceRunner::States& SequenceRunner::leaving() const {
  require(plan_.leaves, "the states behind the last token were not asked for");
  return plan_.whole() ? workspaces_.begin()->second->leaving : leaving_;
}

SequenceRunner::States SequenceRunner::dentering() {
  require(plan_.enters && plan_.handing.gradient, "nothing enters that has a gradient");
  States states(model_.layers());
  for (size_t l = 0; l < states.size(); ++l) {
    const StateExchange::Carried kept = exchange_->dcarried(static_cast<int64_t>(l));
    states[l].assign(kept.begin(), kept.end());
  }
  return states;
}

// What enters the sequence is what a group before the first one would have left.
void SequenceRunner::begin_sequence() {
  for (size_t l = 0; l < initial_.size(); ++l) {
    const StateExchange::Carried kept = exchange_->carried(static_cast<int64_t>(l));
    for (size_t i = 0; i < kept.size(); ++i) {
      copy(*ops_.memory, {}, kept[i], initial_[l][i]);
    }
  }
}

void SequenceRunner::begin_group(int64_t group) {
  if (!exchanges()) return;
  const SegmentPlan& all = plan_.segments;
  const bool last = group + 1 == all.groups();
  const int64_t tile = plan_.model.tile;
  const int64_t tokens = last ? all.segment(all.segments() - 1).tokens() : all.chunk;
  exchange_->begin_group({all.segments_of(group), group == 0 && !plan_.enters, last,
                          tile > 0 ? wkv7_tiles(tokens, tile) : 1});
}

// The workspace for a segment, its edges bound. talks: what leaves it is to be handed on.
Workspace& SequenceRunner::enter(const Segment& segment, int64_t slot, bool talks) {
  Workspace& ws = *workspaces_.at(segment.tokens());
  if (plan_.whole()) {
    if (plan_.leaves) model_.reset(ws);
    return ws;
  }
  const bool starts_from_zero = (segment.first && !plan_.enters) || !plan_.handing.state;
  const States& entering = slots_[stashes_on_host() ? 0 : static_cast<size_t>(slot)];
  const bool gradient = plan_.model.backward && plan_.handing.gradient;
  for (size_t l = 0; l < model_.layers(); ++l) {
    if (starts_from_zero) {
      zero(*ops_.memory, {}, entering[l][kFirstHalo]);
      zero(*ops_.memory, {}, entering[l][kSecondHalo]);
    }
    for (size_t i = 0; i < entering[l].size(); ++i) {
      const bool none = i == kState && starts_from_zero;
      ws.entering[l][i] = none ? Tensor{} : entering[l][i];
      ws.leaving[l][i] = plan_.leaves && segment.last ? leaving_[l][i] : Tensor{};
      const bool ends_here = i == kState && segment.last;
      ws.dleaving[l][i] = gradient && !ends_here ? dleaving_[i] : Tensor{};
      ws.dentering[l][i] = gradient ? dentering_[i] : Tensor{};
    }
    if (!passes_on()) continue;
    const auto layer = static_cast<int64_t>(l);
    if (talks && !segment.last) ws.leaving[l][kState] = exchange_->carried(layer)[kState];
    if (gradient && !starts_from_zero) {
      ws.dentering[l][kState] = exchange_->dcarried(layer)[kState];
    }
  }
  return ws;
}

// The segment's part of a batch, where the backend's tensors live.
Batch SequenceRunner::cut(const Segment& segment, const Batch& batch) {
  const Batch own = cut_on_host(segment, batch);
  if (ops_.memory->host) return own;
  const Cut& to = cuts_.at(segment.tokens());
  sequence_.settle();  // the host waits for the stream next, and it may wait for another rank
  const auto upload = [&](const ConstTensor& from, const Tensor& room) {
    if (from.empty()) return ConstTensor{};
    copy(*ops_.memory, {}, room, from);
    return ConstTensor(room);
  };
  return {upload(own.tokens, to.tokens), upload(own.targets, to.targets),
          upload(own.weight, to.weight), upload(own.starts, to.starts)};
}

Batch SequenceRunner::cut_on_host(const Segment& segment, const Batch& batch) {
  if (plan_.whole()) return batch;
  const Cut& to = host_cuts_.at(segment.tokens());
  const int64_t begin = segment.run_begin, end = segment.end;
  cut_columns<int32_t>(batch.tokens, begin, end, to.tokens);
  if (batch.targets.empty()) return {to.tokens, {}, {}};
  cut_columns<int32_t>(batch.targets, begin, end, to.targets);
  cut_columns<float>(batch.weight, begin, end, to.weight);
  for (int64_t b = 0; b < plan_.model.batch; ++b) {  // counted by the left neighbour
    float* weight = to.weight.as<float>() + b * segment.tokens();
    std::fill(weight, weight + (segment.begin - segment.run_begin), 0.0f);
  }
  if (!batch.starts.empty()) cut_columns<int32_t>(batch.starts, begin, end, to.starts);
  return {to.tokens, to.targets, to.weight, batch.starts.empty() ? ConstTensor{} : to.starts};
}

Pass SequenceRunner::pass_of(const Pass& pass, const Segment& segment, const Batch& batch,
                             bool talks) const {
  Pass own = pass;
  own.exchange = talks ? exchange_.get() : nullptr;
  own.all_maps = exchanges() && !passes_on();
  own.overlap = segment.end - segment.handed;
  own.starts = batch.starts;
  return own;
}

// Of this rank's segment, whose part of the batch it returns. talks: with the neighbours; else what
// entered is taken from the slot.
Batch SequenceRunner::run_forward(const Pass& pass, const ParamStore& store, const Batch& batch,
                                  int64_t group, int64_t slot, bool talks) {
  begin_group(group);
  const auto segment = plan_.segments.at(group, sequence_.rank());
  talks = talks && exchanges();
  if (!segment) {
    if (talks) exchange_->absent_forward(pass.stream);
    return {};
  }
  Workspace& ws = enter(*segment, slot, talks);
  const Batch own = cut(*segment, batch);
  model_.forward(pass_of(pass, *segment, own, talks), store, ws, own.tokens);
  return own;
}

void SequenceRunner::run_backward(const Pass& pass, const ParamStore& store, const Batch& batch,
                                  int64_t group, int64_t slot, double l2wrap, const Visit& visit) {
  begin_group(group);
  const auto segment = plan_.segments.at(group, sequence_.rank());
  const bool talks = exchanges() && plan_.handing.gradient;
  if (!segment) {
    if (talks) exchange_->absent_backward(pass.stream);
    return;
  }
  Workspace& ws = enter(*segment, slot, false);
  const Batch own = cut(*segment, batch);
  model_.loss_backward(pass_of(pass, *segment, own, talks), store, ws, own, l2wrap);
  show(visit, pass, *segment, ws, batch, {});
}

// What entered a segment, from the device's one slot to the host or back again.
void SequenceRunner::stash_on_host(int64_t slot, bool keeps) {
  sequence_.settle();  // the host waits for the stream next, and it may wait for another rank
  const Tensor& last = slots_[0].back().back();
  std::byte* here = slots_[0].front().front().data;  // its tensors lie one behind the other
  std::byte* there = host_stash_.data() + slot * slot_bytes_;
  const int64_t bytes = last.data + last.bytes() - here;
  ops_.memory->copy({}, keeps ? there : here, keeps ? here : there, bytes);
}

// Groups [first, end) of a span: forward with the neighbours, what enters kept; then backward in
// reverse, where all but the last group run forward again, alone.
void SequenceRunner::run_span(const Pass& pass, const ParamStore& store, const Batch& batch,
                              int64_t span, double l2wrap, const Visit& visit) {
  const int64_t first = span * plan_.span();
  const int64_t end = std::min(first + plan_.span(), plan_.segments.groups());
  for (int64_t group = first; group < end; ++group) {
    run_forward(pass, store, batch, group, group - first, true);
    if (stashes_on_host()) stash_on_host(group - first, true);
  }
  for (int64_t group = end - 1; group >= first; --group) {
    if (group + 1 < end) {
      if (stashes_on_host()) stash_on_host(group - first, false);
      run_forward(pass, store, batch, group, group - first, false);
    }
    run_backward(pass, store, batch, group, group - first, l2wrap, visit);
  }
}

void SequenceRunner::forward_backward(const Pass& pass, const ParamStore& store, const Batch& batch,
                                      double l2wrap, const Visit& visit) {
  if (plan_.whole()) return run_whole(pass, store, batch, l2wrap, visit);
  const int64_t before = exchanges() ? exchange_->sent_bytes() : 0;
  run_both(pass, store, batch, l2wrap, visit);
  if (exchanges()) sent_bytes_ += exchange_->sent_bytes() - before;
}

// One segment, nothing handed on.
void SequenceRunner::run_whole(const Pass& pass, const ParamStore& store, const Batch& batch,
                               double l2wrap, const Visit& visit) {
  const Segment segment = *plan_.segments.at(0, 0);
  Workspace& ws = enter(segment, 0, false);
  const Batch own = cut(segment, batch);
  const RecordedPass::Key key{&store,          own.tokens.data, own.targets.data,
                              own.weight.data, own.starts.data, pass.loss_scale,
                              l2wrap};
  recorded_.run(pass, key, [&](const Pass& issuing) {
    const Pass whole = pass_of(issuing, segment, own, false);
    model_.forward(whole, store, ws, own.tokens);
    model_.loss_backward(whole, store, ws, own, l2wrap);
  });
  show(visit, pass, segment, ws, batch, {});
}

void SequenceRunner::run_both(const Pass& pass, const ParamStore& store, const Batch& batch,
                              double l2wrap, const Visit& visit) {
  const int64_t spans = plan_.spans();
  begin_sequence();
  if (!plan_.handing.gradient) {  // no gradient crosses an edge: each group is done with at once
    for (int64_t span = 0; span < spans; ++span) {
      run_span(pass, store, batch, span, l2wrap, visit);
    }
    return;
  }
  const auto snapshot = [&](int64_t span) { return snapshots_.rows(span - 1, span).data; };
  for (int64_t group = 0; group < (spans - 1) * plan_.span(); ++group) {
    run_forward(pass, store, batch, group, 0, true);
    if ((group + 1) % plan_.span() == 0) {
      exchange_->save_carry(snapshot((group + 1) / plan_.span()));
    }
  }
  for (int64_t span = spans - 1; span >= 0; --span) {
    if (span > 0) exchange_->restore_carry(snapshot(span));
    if (span == 0) begin_sequence();
    run_span(pass, store, batch, span, l2wrap, visit);
  }
}

void SequenceRunner::forward(const Pass& pass, const ParamStore& store, const Batch& batch,
                             const Visit& visit, Tensor logits) {
  begin_sequence();
  for (int64_t group = 0; group < plan_.segments.groups(); ++group) {
    const Batch own = run_forward(pass, store, batch, group, 0, true);
    const auto segment = plan_.segments.at(group, sequence_.rank());
    if (!segment || !visit) continue;
    Workspace& ws = *workspaces_.at(segment->tokens());
    const Tensor room = logits_of(*segment, logits);
    model_.loss(pass_of(pass, *segment, own, false), store, ws, own, room);
    show(visit, pass, *segment, ws, batch, room);
  }
}

void SequenceRunner::show(const Visit& visit, const Pass& pass, const Segment& segment,
                          const Workspace& ws, const Batch& batch, const Tensor& logits) {
  const Memory& memory = *ops_.memory;
  sequence_.settle();
  const ConstTensor weight =
      plan_.whole() ? batch.weight : ConstTensor(host_cuts_.at(segment.tokens()).weight);
  visit({segment, on_host(memory, pass.stream, ws.loss, loss_room_),
         on_host(memory, pass.stream, ws.best, best_room_), weight,
         on_host(memory, pass.stream, logits, logits_room_)});
}

Tensor SequenceRunner::logits_of(const Segment& segment, const Tensor& room) const {
  if (room.empty()) return {};
  const Shape shape{plan_.model.batch, segment.tokens(), model_.config().vocab};
  require(shape.elements() <= room.elements(), "a segment's logits have room");
  return {room.data, room.dtype, shape};
}

void SequenceRunner::last_logits(const Pass& pass, const ParamStore& store, Tensor logits) {
  const SegmentPlan& all = plan_.segments;
  const Segment last = all.segment(all.segments() - 1);
  require(last.owner == sequence_.rank(), "the last token is another rank's");
  model_.last_logits(pass, store, *workspaces_.at(last.tokens()), logits);
}

}  // namespace rwkv
