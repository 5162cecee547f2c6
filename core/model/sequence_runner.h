// Whole sequences through the model, in segments over ranks and groups one after the other: the one
// way in which training and evaluation run the model (docs/sequence_parallelism.md).
//
// Forward: group by group, each layer's state and halos handed to the right. Backward: groups in
// reverse; what entered each segment was stashed, so that a group's forward can run again without
// its neighbours. One segment that is the whole sequence is the same with nothing to hand on.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/model/recorded_pass.h"
#include "core/model/sequence_plan.h"

namespace rwkv {

class SequenceRunner {
 public:
  // Without memory: only the plan. `sequence` and `ops` must outlive the object. Not collective.
  SequenceRunner(const Model&, const SequencePlan&, Communicator& sequence, const Backend& ops,
                 bool with_memory = true);

  const SequencePlan& plan() const { return plan_; }

  // One segment's results, on the host: (B, n) each, of the tokens it runs; those of an overlap
  // have weight 0.
  struct Result {
    Segment segment;
    ConstTensor loss, best;   // acc, i32
    ConstTensor weight;       // f32
    ConstTensor logits = {};  // (B, n, V) acc, where they were asked for
  };
  using Visit = std::function<void(const Result&)>;

  // `batch` holds whole sequences on the host, the same on all ranks of the sequence. Accumulates
  // gradients of sum over tokens of weight * loss (and L2Wrap). `visit` sees each of this rank's
  // segments once. Collective over the sequence.
  void forward_backward(const Pass&, const ParamStore&, const Batch&, double l2wrap,
                        const Visit& visit);
  // Losses alone; without a `visit` not even those, and a batch of tokens will do. Logits of a
  // segment go to `logits` (B, most tokens of a segment, V) acc, in the backend's memory, unless it
  // is empty. Collective over the sequence.
  void forward(const Pass&, const ParamStore&, const Batch&, const Visit& visit,
               Tensor logits = {});
  // Logits (B, V) behind the last token, on its rank. After forward().
  void last_logits(const Pass&, const ParamStore&, Tensor logits);

  // A layer's tensors in the order of Block::carries().
  using States = Workspace::States;
  // plan().enters: what enters the next pass, on every rank; zero until it is set.
  const States& entering() const { return initial_; }
  // plan().enters: its gradient after forward_backward(), on the sequence's last rank.
  States dentering();
  // plan().leaves: after a pass, on the rank of the last segment.
  const States& leaving() const;

  // Bytes that this rank has sent for segments' states, rows and their gradients.
  int64_t sent_bytes() const { return sent_bytes_; }
  // How the planned bytes are used.
  const std::vector<Arena::Entry>& entries() const { return entries_; }
  int64_t stash_bytes() const { return stash_bytes_; }

 private:
  // The tokens of one segment, contiguous.
  struct Cut {
    Tensor tokens, targets, weight, starts;  // (B, n)
  };
  static Cut take_cut(Arena&, const Shape&);

  void bind(Arena&);
  void bind_edges(Arena&);
  void bind_host();
  // train.stash: host where the backend's memory is a device's: one slot is there, the rest here.
  bool stashes_on_host() const {
    return plan_.stash == "host" && !ops_.memory->host && plan_.span() > 1;
  }
  void stash_on_host(int64_t slot, bool keeps);
  std::vector<Segment> kinds() const;
  std::vector<int64_t> lengths() const;
  bool saves_bf16_states() const;
  void plan_workspaces(bool with_memory);
  States take_states(Arena&, std::string_view name) const;
  bool exchanges() const { return exchange_ != nullptr; }
  void begin_sequence();
  void run_whole(const Pass&, const ParamStore&, const Batch&, double l2wrap, const Visit&);
  void run_both(const Pass&, const ParamStore&, const Batch&, double l2wrap, const Visit&);
  void begin_group(int64_t group);
  Workspace& enter(const Segment&, int64_t slot, bool talks);
  bool passes_on() const { return exchanges() && exchange_->passes_on(); }
  Batch cut(const Segment&, const Batch&);
  Batch cut_on_host(const Segment&, const Batch&);
  bool copies_batch() const { return !plan_.whole() || !ops_.memory->host; }
  void show(const Visit&, const Pass&, const Segment&, const Workspace&, const Batch&,
            const Tensor& logits);
  Pass pass_of(const Pass&, const Segment&, const Batch&, bool talks) const;
  Tensor logits_of(const Segment&, const Tensor& room) const;
  Batch run_forward(const Pass&, const ParamStore&, const Batch&, int64_t group, int64_t slot,
                    bool talks);
  void run_backward(const Pass&, const ParamStore&, const Batch&, int64_t group, int64_t slot,
                    double l2wrap, const Visit&);
  void run_span(const Pass&, const ParamStore&, const Batch&, int64_t span, double l2wrap,
                const Visit&);

  const Model& model_;
  SequencePlan plan_;
  Communicator& sequence_;
  const Backend& ops_;
  std::unique_ptr<StateExchange> exchange_;                   // nullptr: nothing is handed on
  std::map<int64_t, std::unique_ptr<Workspace>> workspaces_;  // by tokens of a segment
  WorkspaceMemory activations_;
  States initial_, leaving_;   // of the sequence
  std::vector<States> slots_;  // what entered a segment: the stash
  Buffer host_stash_;          // (groups of a span, slot_bytes_)
  int64_t slot_bytes_ = 0;
  std::vector<Tensor> dleaving_, dentering_;  // a carry; shared by all layers and groups
  Tensor snapshots_;                  // (spans - 1, bytes) u8: what left the group before each span
  std::map<int64_t, Cut> cuts_;       // by tokens of a segment
  std::map<int64_t, Cut> host_cuts_;  // the same on the host
  Buffer memory_, host_memory_;
  Buffer loss_room_, best_room_, logits_room_;  // results of a segment, on the host
  RecordedPass recorded_;
  std::vector<Arena::Entry> entries_;
  int64_t stash_bytes_ = 0, sent_bytes_ = 0;
};

}  // namespace rwkv
