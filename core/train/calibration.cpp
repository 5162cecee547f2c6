#include "core/train/calibration.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "core/base/rng.h"
#include "core/plan/param_table.h"
#include "core/train/trainer.h"
#include "parallel/agree.h"

namespace rwkv {
namespace {

// The best of a few, as the slowest rank has it: all work at once, as they do in training.
double seconds_of(Communicator& ranks, const std::function<void()>& work) {
  constexpr int kRounds = 4;  // the first one warms up
  double best = 1e300;
  for (int round = 0; round < kRounds; ++round) {
    ranks.barrier();
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
    const int64_t slowest = ranks.max(static_cast<int64_t>(taken.count()));
    if (round > 0) best = std::min(best, 1e-9 * static_cast<double>(slowest));
  }
  return best;
}

// Two segments, one after the other, on each rank for itself.
class Segments {
 public:
  Segments(const Recipe& recipe, const Machine& machine, const MeshShape& mesh)
      : model_(complete_model(recipe)),
        store_(model_.params(), machine.precision, true, machine.leaf > 0, {},
               *machine.ops->memory),
        self_(make_self(*machine.ops->memory)),
        pass_{machine.stream(), *machine.ops, machine.leaf, machine.tile} {
    const int64_t share = share_of(recipe.train.batch, mesh.data, mesh.data - 1).count();
    SequencePlan plan =
        plan_sequence(recipe, machine, mesh,
                      plan_micro_batch(recipe, share, mesh.sequence, machine.tokens_a_pass));
    int64_t chunk = std::min(plan.segments.chunk, recipe.train.context);
    // Under exact sums segments meet between leaves alone, also where the recipe has but one.
    if (machine.leaf > 0) chunk = (chunk + machine.leaf - 1) / machine.leaf * machine.leaf;
    plan.model.tokens = 2 * chunk;
    plan.model.recompute = false;
    plan.segments = plan_segments(2 * chunk, 1, chunk, 0, machine.leaf);
    plan.handing = {};
    plan.exchange = {"ring", 1};
    plan.stash = "all";
    runner_ = std::make_unique<SequenceRunner>(model_, plan, *self_, *machine.ops);
    initialize(store_, 1, machine.cores);
    store_.refresh(*machine.ops, pass_.stream);
    const int64_t all = plan.model.batch * plan.model.tokens;
    const Philox random(1, "calibration");
    for (int64_t i = 0; i < all; ++i) {
      const auto limit = static_cast<uint64_t>(model_.config().vocab);
      tokens_.push_back(static_cast<int32_t>(random.below(limit, static_cast<uint64_t>(i))));
    }
    weight_.assign(tokens_.size(), 1.0f);
  }

  const Model& model() const { return model_; }
  double tokens() const { return static_cast<double>(tokens_.size()); }
  void forward() { runner_->forward(pass_, store_, batch(), {}); }
  void loss() { runner_->forward(pass_, store_, batch(), nothing_); }
  void both() { runner_->forward_backward(pass_, store_, batch(), 1e-4, nothing_); }
  void update(const OptimizerConfig& config) {
    Optimizer optimizer(config, store_);
    optimizer.step(pass_, 0, 1, optimizer.norm(pass_, 1), 1);
  }

 private:
  Batch batch() const {
    const ModelPlan& m = runner_->plan().model;
    const Shape shape{m.batch, m.tokens};
    const ConstTensor tokens = view_of(tokens_.data(), shape);
    return {tokens, tokens, view_of(weight_.data(), shape)};
  }

  Model model_;
  ParamStore store_;
  std::unique_ptr<Communicator> self_;
  Pass pass_;
  std::unique_ptr<SequenceRunner> runner_;
  std::vector<int32_t> tokens_;
  std::vector<float> weight_;
  SequenceRunner::Visit nothing_ = [](const SequenceRunner::Result&) {};
};

// Ranks 0 and 1 send each other messages in turn.
double seconds_a_message(Communicator& ranks, int64_t bytes, int rounds) {
  std::vector<uint8_t> out(static_cast<size_t>(bytes)), in(out);
  const double seconds = seconds_of(ranks, [&] {
    if (ranks.rank() > 1) return;
    const int peer = 1 - ranks.rank();
    Stream stream;
    for (int i = 0; i < rounds; ++i) {
      const bool sends = (i + ranks.rank()) % 2 == 0;
      const Shape shape{bytes};
      ranks
          .shift(sends ? ConstTensor(view_of(out.data(), shape)) : ConstTensor{},
                 sends ? peer : kNoRank, sends ? Tensor{} : view_of(in.data(), shape),
                 sends ? kNoRank : peer, stream)
          ->wait();
    }
  });
  return seconds / rounds;
}

}  // namespace

Calibration calibrate(const Recipe& recipe, const Machine& machine, Communicator& ranks) {
  std::unique_ptr<Segments> segments;
  agree(ranks, [&] {
    if (ranks.size() < 2) {
      throw InputError("--calibrate: needs two ranks, to send messages: mpirun -n 2");
    }
    segments =
        std::make_unique<Segments>(recipe, machine, plan_mesh(recipe, ranks.size(), machine.leaf));
  });
  Calibration c;
  const double tokens = segments->tokens();
  const double forward = seconds_of(ranks, [&] { segments->forward(); });
  const double loss = seconds_of(ranks, [&] { segments->loss(); });
  const double both = seconds_of(ranks, [&] { segments->both(); });
  c.forward = forward / tokens;
  c.head = std::max(loss - forward, 1e-3 * forward) / tokens;
  // Both ways, one of the two segments runs forward once more.
  c.backward = std::max(both - 1.5 * forward, 0.1 * forward) / tokens;
  c.parameters = static_cast<double>(count_elements(segments->model().params()));
  c.update = seconds_of(ranks, [&] { segments->update(recipe.optimizer); }) / c.parameters;
  constexpr int64_t kLarge = int64_t{1} << 22;
  c.link.latency = seconds_a_message(ranks, 8, 200);
  c.link.bytes_per_second = static_cast<double>(kLarge) /
                            std::max(seconds_a_message(ranks, kLarge, 8) - c.link.latency, 1e-9);
  c.flops_per_token = flops_per_token(segments->model().config());
  c.cores = available_cores();
  c.cores_a_rank = cores_a_rank(recipe, c.cores, host_place(ranks).size);
  return c;
}

}  // namespace rwkv
