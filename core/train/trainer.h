// Training: recipe -> plans -> batch -> embedding -> blocks -> head and loss -> blocks in reverse
// -> gradient reduction -> optimizer -> metrics, checkpoint.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/data/source.h"
#include "core/model/model.h"
#include "core/plan/loss_scale.h"
#include "core/plan/mesh_shape.h"
#include "core/plan/step_plan.h"
#include "core/train/batch_loader.h"
#include "core/train/evaluator.h"
#include "core/train/job.h"
#include "core/train/metrics.h"
#include "core/train/optimizer.h"
#include "core/train/tally.h"
#include "core/train/totals.h"
#include "parallel/device_ranks.h"
#include "parallel/grad_sync.h"

namespace rwkv {

// Everything a step needs, built once; no allocation of ours happens in train_step() after that.
class Trainer {
 public:
  // `ranks` holds the mesh's ranks (no parked one). Opens the data, plans memory, sets initial
  // weights (or those of run.init_from). Reads the shapes of
  // run.init_from, then splits `ranks` and looks at their hosts; after that it is not collective
  // and may throw on one rank alone.
  Trainer(const Recipe&, const Machine&, Communicator& ranks);
  // The same without weights, of a model that is known (complete_model()): set_first_weights(), or
  // those of a checkpoint and weights_changed().
  Trainer(const Recipe&, const ModelConfig&, const Machine&, Communicator& ranks);
  // Initial weights, or those of run.init_from. Not collective.
  void set_first_weights();

  // One update; `step` is 0-based. Fills `row`. Collective. Returns true when a rank was asked to
  // stop.
  bool train_step(int64_t step, StepRow& row);
  // Passes over a batch that were thrown away because a term of an exact sum did not fit (a run's
  // first step is one) or scaled gradients overflowed, since this object was made.
  int64_t repeated_passes() const { return repeated_; }
  // Held-out loss; nullopt when there is no validation data. Collective.
  std::optional<Totals> evaluate();

  // What carries fast sums of devices between ranks, for Machine::numerics: ", nccl 2.28.9"; empty:
  // bits do not depend on it.
  std::string link() const;

  const Recipe& recipe() const { return recipe_; }
  const Model& model() const { return *model_; }
  ParamStore& store() { return *store_; }
  const Pass& pass() const { return pass_; }
  Precision precision() const { return machine_.precision; }
  const SampleSource& source() const { return *source_; }
  bool has_validation() const { return validation_ != nullptr; }
  // Of the file that is trained on; 0: none is.
  int64_t data_tokens() const;
  // AgreedError where ranks see files of different length. Collective.
  void require_same_data() const;
  int64_t micro_batch() const { return micro_batch_; }
  const MeshShape& mesh() const { return mesh_; }
  int64_t tokens_a_step() const { return recipe_.train.batch * recipe_.train.context; }
  // Which algorithms products have, as text for a checkpoint or a person; empty: there is but one.
  // They are chosen in the first step by measuring, for shapes that no checkpoint's, taken before,
  // has one for; not under exact sums, whose bits may not depend on a clock.
  std::string product_choices() const;
  // Returns in a few words why they cannot be used here; empty: taken. Collective.
  std::string take_product_choices(const std::string&);
  // None: the loss is not scaled. Setting it does nothing then.
  std::optional<LossScale> loss_scale() const;
  void set_loss_scale(const LossScale&);
  // After weights were changed from outside (a checkpoint was loaded).
  void weights_changed();
  // What the planned memory of this rank holds.
  std::vector<Arena::Entry> memory() const;
  // Read at the end of a step; when set on any rank, train_step() returns true on all.
  void set_stop_flag(const volatile int* flag) { stop_flag_ = flag; }

 private:
  bool carry_out_plan(int64_t step, StepRow&);
  void fill_row(int64_t step, double seconds, StepRow&) const;
  void choose_products(int64_t step);
  void share_choices(const ProductChoices&);
  // last: of the passes that add to the gradients.
  void forward_backward(const Action&, bool last);
  bool scales_fit(int64_t step);
  bool lower_loss_scale();
  [[noreturn]] void throw_not_finite(int64_t step, double norm) const;  // on all ranks alike
  void reduce();
  bool update(int64_t step, StepRow& row);
  void collect_weights();
  void change_scales(StepRow& row);
  void load_batch(int64_t step);
  bool leads() const { return sequence_->rank() == 0; }  // its sequence

  Recipe recipe_;
  Machine machine_;
  Communicator& ranks_;
  MeshShape mesh_;
  std::unique_ptr<Communicator> sequence_;      // ranks that share this one's sequences
  DeviceRanks device_ranks_, device_sequence_;  // the same for the backend's tensors
  ExchangeKind exchange_;
  std::unique_ptr<SampleSource> source_, validation_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<ParamStore> store_;
  Pass pass_;
  Share share_;
  int64_t micro_batch_;
  std::vector<Action> plan_;
  std::vector<int64_t> samples_;
  std::unique_ptr<SequenceRunner> runner_;
  std::unique_ptr<Tally> tally_;
  std::unique_ptr<BatchLoader> loader_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Evaluator> evaluator_;
  std::vector<std::string> skills_;
  Totals totals_;
  std::vector<double> scales_;  // those of the next step
  Buffer peaks_room_;
  int64_t repeated_ = 0;
  bool chooses_;        // products, in the next step
  bool syncs_ = false;  // gradients are reduced while the last pass goes on
  std::unique_ptr<GradSync> sync_;
  LossScale loss_scale_;
  const volatile int* stop_flag_ = nullptr;
};

// How a recipe's micro-batches run on a mesh, each rank a node of its own. Throws InputError when
// chunk or overlap do not fit.
SequencePlan plan_sequence(const Recipe&, const Machine&, const MeshShape&, int64_t micro_batch);

// The recipe's model with every open field filled: from the shapes of `weights`, a file or
// checkpoint, empty: none; then by formula.
ModelConfig complete_model(const Recipe&, const std::string& weights);
inline ModelConfig complete_model(const Recipe& r) { return complete_model(r, r.run.init_from); }

}  // namespace rwkv
