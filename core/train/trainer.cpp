#include "core/train/trainer.h"

#include <chrono>
#include <cmath>

#include "core/data/tokenizer.h"
#include "core/io/weight_file.h"
#include "core/plan/param_table.h"
#include "core/plan/schedule.h"
#include "core/train/memory_room.h"
#include "parallel/agree.h"
#include "parallel/nccl_library.h"

namespace rwkv {

ModelConfig complete_model(const Recipe& recipe, const std::string& weights) {
  ModelConfig model = recipe.model;
  if (!weights.empty()) model = WeightFile(weights).model(model);
  return resolve_model(model, make_tokenizer(recipe.data.tokenizer)->vocab());
}

namespace {

// Elements of an activation whose element-wise kernel takes as long as issuing one: some 5 us.
constexpr int64_t kWorthRecording = int64_t{1} << 22;

bool records(const Recipe& recipe, const Machine& machine, int64_t micro_batch, int64_t width) {
  if (machine.leaf > 0 || recipe.parallel.graphs == "off") return false;  // scales change each step
  return recipe.parallel.graphs == "on" ||
         micro_batch * recipe.train.context * width <= kWorthRecording;
}

}  // namespace

SequencePlan plan_sequence(const Recipe& recipe, const Machine& machine, const MeshShape& mesh,
                           int64_t micro_batch) {
  ModelPlan model{machine.precision, micro_batch, recipe.train.context,
                  machine.threads,   true,        recipe.train.recompute == "block",
                  machine.leaf,      machine.tile};
  model.keep_mixes = machine.keeps_mixes && recipe.train.recompute != "norms";
  return {model,
          plan_segments(recipe.train.context, mesh.sequence, recipe.train.chunk,
                        recipe.train.overlap, machine.leaf),
          plan_handing(recipe),
          {recipe.parallel.exchange, 1},
          recipe.train.stash};
}

Trainer::Trainer(const Recipe& recipe, const Machine& machine, Communicator& ranks)
    : Trainer(recipe, complete_model(recipe), machine, ranks) {
  set_first_weights();
}

void Trainer::set_first_weights() {
  if (recipe_.run.init_from.empty()) {
    initialize(*store_, recipe_.run.seed, machine_.cores);
  } else {
    WeightFile(recipe_.run.init_from).load(*store_);
  }
  weights_changed();
}

Trainer::Trainer(const Recipe& recipe, const ModelConfig& model, const Machine& machine,
                 Communicator& ranks)
    : recipe_(recipe),
      machine_(machine),
      ranks_(ranks),
      mesh_(plan_mesh(recipe, ranks.size(), machine.leaf)),
      sequence_(ranks.split(mesh_.data_group(ranks.rank()), mesh_.place(ranks.rank()))),
      device_ranks_(ranks, *machine.ops->memory, machine.link),
      device_sequence_(*sequence_, *machine.ops->memory, machine.link),
      exchange_(find_exchange_kind(recipe.parallel.exchange, *sequence_)),
      pass_{machine.stream(), *machine.ops, machine.leaf, machine.tile},
      share_(share_of(recipe.train.batch, mesh_.data, mesh_.data_group(ranks.rank()))),
      micro_batch_(plan_micro_batch(recipe, share_.count(), mesh_.sequence, machine.tokens_a_pass)),
      plan_(plan_step(share_.count(), micro_batch_, machine.leaf > 0)),
      totals_(0),
      chooses_(machine.ops->choices != nullptr && machine.leaf == 0) {
  require_kernels(*machine.ops, model);
  model_ = std::make_unique<Model>(model);
  source_ = make_train_source(recipe, model_->config().vocab);
  validation_ = make_validation_source(recipe, model_->config().vocab);
  sampler_ = make_sampler(recipe, *source_);
  SequencePlan plan = plan_sequence(recipe, machine, mesh_, micro_batch_);
  plan.exchange = exchange_;
  plan.records = records(recipe, machine, micro_batch_, model_->config().width);
  const Part part =
      recipe.parallel.shard == "optimizer" ? Part{ranks.size(), ranks.rank()} : Part{};
  std::vector<Arena::Entry> planned =
      plan_param_store(model_->params(), machine.precision, true, machine.leaf > 0, part);
  add_entries(planned,
              SequenceRunner(*model_, plan, device_sequence_.get(), *machine.ops, false).entries());
  require_room(*machine.ops->memory, planned);
  store_ = std::make_unique<ParamStore>(model_->params(), machine.precision, true, machine.leaf > 0,
                                        part, *machine.ops->memory);
  runner_ = std::make_unique<SequenceRunner>(*model_, plan, device_sequence_.get(), *machine.ops);
  sync_ = std::make_unique<GradSync>(device_ranks_.get(), model_->layers() + 2);
  // Exact sums are looked at before they travel; ranks of a sequence have messages of their own.
  syncs_ = machine.leaf == 0 && mesh_.sequence == 1 && !plan.records;
  const int64_t passes = (share_.count() + micro_batch_ - 1) / micro_batch_;
  loader_ = std::make_unique<BatchLoader>(*source_, passes * micro_batch_, recipe.train.context,
                                          recipe.data.reset_documents);
  optimizer_ = std::make_unique<Optimizer>(recipe.optimizer, *store_);
  if (validation_ != nullptr) {
    evaluator_ = std::make_unique<Evaluator>(*validation_, micro_batch_, recipe.train.context,
                                             recipe.data.reset_documents);
  }
  scales_.resize(store_->size());
  samples_.resize(static_cast<size_t>(share_.count()));
  skills_ = source_->skills();
  totals_ = Totals(skills_.size());
  tally_ = std::make_unique<Tally>(micro_batch_, recipe.train.context, !skills_.empty(),
                                   machine.leaf, *sequence_);
  set_loss_scale({});
}

int64_t Trainer::data_tokens() const { return recipe_.data.path.empty() ? 0 : source_->tokens(); }

void Trainer::require_same_data() const {
  const auto same = [&](int64_t count, const char* key) {
    require_same(ranks_, static_cast<uint64_t>(count),
                 std::string(key) + ": ranks see files of different length");
  };
  same(source_->tokens(), "data.path");
  if (validation_ != nullptr) same(validation_->size(), "data.validation");
}

void Trainer::weights_changed() { store_->refresh(pass_.ops, pass_.stream); }

std::string Trainer::link() const {
  if (machine_.link.device < 0 || machine_.leaf > 0 || ranks_.size() == 1) return "";
  const std::string name = device_ranks_.get().name();
  return ", " + name + (name == "nccl" ? " " + nccl_library().version : "");
}

void Trainer::load_batch(int64_t step) {
  for (int64_t i = 0; i < share_.count(); ++i) {
    samples_[static_cast<size_t>(i)] = sampler_->sample(step, share_.begin + i);
  }
  totals_.clear();
  loader_->load(samples_, totals_);
  if (!leads()) totals_.clear();
}

bool Trainer::train_step(int64_t step, StepRow& row) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t repeated_before = repeated_;
  if (chooses_) choose_products(step);
  while (!carry_out_plan(step, row)) ++repeated_;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fill_row(step, seconds.count(), row);
  row.repeated = repeated_ - repeated_before;
  return totals_.stop > 0;
}

// The interpreter of a step's plan. False: what was computed cannot be used, and weights are as
// before.
bool Trainer::carry_out_plan(int64_t step, StepRow& row) {
  load_batch(step);
  store_->zero_gradients(pass_.stream);
  for (size_t i = 0; i < plan_.size(); ++i) {
    bool good = true;
    switch (plan_[i].phase) {
      case Phase::kForwardBackward:
        forward_backward(plan_[i], plan_[i + 1].phase == Phase::kReduce);
        break;
      case Phase::kScale:
        good = scales_fit(step);
        break;
      case Phase::kReduce:
        reduce();
        break;
      case Phase::kUpdate:
        good = update(step, row);
        break;
    }
    if (!good) return false;
  }
  return true;
}

// What is known without the optimizer.
void Trainer::fill_row(int64_t step, double seconds, StepRow& row) const {
  row.step = step + 1;
  row.tokens = (step + 1) * tokens_a_step();
  row.loss = totals_.mean_loss();
  row.seconds = seconds;
  row.tokens_per_s = static_cast<double>(tokens_a_step()) / row.seconds;
  row.exchanged = totals_.exchanged;
  row.floor.reset();
  if (std::isfinite(totals_.nats())) row.floor = totals_.floor();
  row.skills.clear();
  row.skills.reserve(skills_.size());
  for (size_t i = 0; i < skills_.size(); ++i) {
    if (totals_.asked[i] > 0) {
      row.skills.emplace_back(skills_[i], totals_.answered_share(i));
    }
  }
}

// One pass whose results are thrown away, for the shapes that have no choice yet.
void Trainer::choose_products(int64_t step) {
  const ProductChoices& choices = *machine_.ops->choices;
  chooses_ = false;
  choices.measure(true);
  load_batch(step);
  if (plan_.front().phase == Phase::kForwardBackward) forward_backward(plan_.front(), false);
  choices.measure(false);
  share_choices(choices);
}

// One table for all ranks, so that what rank 0's checkpoint holds is what all have computed with:
// where several have measured a shape the lowest rank's choice holds. Ranks whose shares of a batch
// differ have shapes of their own. A rank with another GPU keeps what it has.
void Trainer::share_choices(const ProductChoices& choices) {
  std::string common = ranks_.broadcast(choices.write(), 0);
  for (;;) {
    const bool has_more = choices.read(common).empty() && choices.write() != common;
    const int64_t first = ranks_.min(has_more ? ranks_.rank() : ranks_.size());
    if (first == ranks_.size()) return;
    common = ranks_.broadcast(choices.write(), static_cast<int>(first));
  }
}

std::string Trainer::product_choices() const {
  return machine_.ops->choices == nullptr ? "" : machine_.ops->choices->write();
}

std::string Trainer::take_product_choices(const std::string& text) {
  if (machine_.ops->choices == nullptr) return "products have one algorithm here";
  const std::string why = machine_.ops->choices->read(text);
  const bool all = ranks_.min(why.empty() ? 1 : 0) == 1;
  return why.empty() && !all ? "another rank cannot use them" : why;
}

void Trainer::forward_backward(const Action& action, bool last) {
  const int64_t sent_before = runner_->sent_bytes();
  Pass pass = pass_;
  if (last && syncs_) pass.sync = sync_.get();
  runner_->forward_backward(pass, *store_, loader_->batch(action.first, micro_batch_),
                            recipe_.loss.l2wrap, tally_->visit(totals_));
  totals_.exchanged += runner_->sent_bytes() - sent_before;
  if (!tally_->graded()) return;
  const Tensor best = tally_->predictions();
  if (leads()) {
    loader_->grade(action.first, action.count, best, totals_.asked, totals_.answered);
  }
}

// Exact sums are good when the largest term of any rank fits the scale of its parameter. The scales
// of the next step follow from this step's largest terms, which do not depend on the scales.
bool Trainer::scales_fit(int64_t step) {
  Stream stream = pass_.stream;
  if (ranks_.size() > 1) {
    device_ranks_.get().all_reduce(store_->peaks(), Reduce::kMax, stream)->wait();
    device_ranks_.get().settle();
  }
  const ConstTensor peaks = on_host(store_->memory(), stream, store_->peaks(), peaks_room_);
  const int64_t leaves =
      recipe_.train.batch * ((recipe_.train.context + machine_.leaf - 1) / machine_.leaf);
  bool fit = true;
  for (size_t i = 0; i < store_->size(); ++i) {
    const double peak = magnitude_from_bits(peaks.as<int64_t>()[i]);
    if (!std::isfinite(peak) && lower_loss_scale()) return false;
    if (!std::isfinite(peak)) {
      totals_.reduce(ranks_);
      throw_not_finite(step, peak);
    }
    const int64_t terms = i == 0 ? tokens_a_step() : leaves;  // an embedded token is a term
    fit = fit && fits(peak, store_->params(i, 1)[0].grad.scale, terms);
    scales_[i] = scale_for(peak, terms);
  }
  if (fit) return true;
  store_->set_scales(scales_);
  return false;
}

// False: that cannot mend it. Collective: before they are reduced, totals are a rank's own.
bool Trainer::lower_loss_scale() {
  if (!machine_.scales_loss) return false;
  const bool finite = ranks_.min(std::isfinite(totals_.loss()) ? 1 : 0) == 1;
  if (!finite || !loss_scale_.lower()) return false;
  pass_.loss_scale = loss_scale_.scale();
  return true;
}

std::optional<LossScale> Trainer::loss_scale() const {
  return machine_.scales_loss ? std::optional(loss_scale_) : std::nullopt;
}

void Trainer::set_loss_scale(const LossScale& scale) {
  if (!machine_.scales_loss) return;
  loss_scale_ = scale;
  pass_.loss_scale = scale.scale();
}

void Trainer::throw_not_finite(int64_t step, double norm) const {
  const std::string what =
      "step " + std::to_string(step + 1) + ": loss " + std::to_string(totals_.mean_loss()) +
      ", gradient norm " + std::to_string(norm) +
      ": not finite; nothing was updated (lower optimizer.lr, or look at the data)";
  throw AgreedError(what, ExitCode::kFatal);
}

void Trainer::reduce() {
  totals_.stop = stop_flag_ != nullptr && *stop_flag_ != 0 ? 1 : 0;
  totals_.reduce(ranks_);
  if (!sync_->any()) sync_->start(store_->all_gradients(), pass_.stream);
  sync_->finish();
}

// Gradients are sums over tokens of the scaled loss until here; the mean over the job's tokens is
// part of the scale. False: they overflowed, and the loss scale is lower now.
bool Trainer::update(int64_t step, StepRow& row) {
  const double scale = 1.0 / (totals_.weight() * pass_.loss_scale);
  row.lr = learning_rate(recipe_.optimizer, step, recipe_.train.steps);
  row.grad_norm = optimizer_->norm(pass_, scale);
  if (!std::isfinite(row.grad_norm) && lower_loss_scale()) return false;
  if (!std::isfinite(row.grad_norm) || !std::isfinite(totals_.loss())) {
    throw_not_finite(step, row.grad_norm);
  }
  optimizer_->step(pass_, row.lr, step + 1, row.grad_norm, scale);
  if (recipe_.parallel.shard == "optimizer") collect_weights();
  if (store_->exact()) change_scales(row);
  row.loss_scale.reset();
  if (machine_.scales_loss) {
    row.loss_scale = pass_.loss_scale;
    loss_scale_.succeed();
    pass_.loss_scale = loss_scale_.scale();
  }
  return true;
}

// Every rank has updated its part of the weights.
void Trainer::collect_weights() {
  if (ranks_.size() == 1) return;
  Stream stream = pass_.stream;
  for (int r = 0; r < ranks_.size(); ++r) {
    device_ranks_.get().broadcast(store_->masters_of_part(r), r, stream)->wait();
  }
  device_ranks_.get().settle();
  weights_changed();
}

// Says what the scales were, and takes those of the next step.
void Trainer::change_scales(StepRow& row) {
  row.scale_min.reset();
  row.scale_max.reset();
  for (size_t i = 0; i < store_->size(); ++i) {
    const double scale = store_->params(i, 1)[0].grad.scale;
    if (scale == 0) continue;
    const double power = std::log2(scale);
    row.scale_min = std::min(power, row.scale_min.value_or(power));
    row.scale_max = std::max(power, row.scale_max.value_or(power));
  }
  store_->set_scales(scales_);
}

std::optional<Totals> Trainer::evaluate() {
  if (evaluator_ == nullptr) return std::nullopt;
  const Share share =
      share_of(eval_samples(recipe_, *validation_), mesh_.data, mesh_.data_group(ranks_.rank()));
  return evaluator_->run(pass_, *store_, {*runner_, *tally_, share, leads()}, ranks_);
}

std::vector<Arena::Entry> Trainer::memory() const {
  std::vector<Arena::Entry> entries = store_->plan();
  add_entries(entries, runner_->entries());
  return entries;
}

}  // namespace rwkv
