// rwkv-dist check RECIPE [key=value ...]: validate and plan, train nothing, create nothing.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/base/posix_file.h"
#include "core/config/load.h"
#include "core/data/source.h"
#include "core/plan/mesh_shape.h"
#include "core/plan/param_table.h"
#include "core/train/calibration.h"
#include "core/train/console.h"
#include "core/train/memory_room.h"
#include "core/train/trainer.h"
#include "launcher/command.h"
#include "parallel/agree.h"

namespace rwkv {
namespace {

struct CheckArguments {
  std::string recipe;
  std::vector<std::string> overrides;
  std::string calibrate, calibration;
  bool params = false;
  int ranks = 0, hosts = 1;
};

// samples: of a step, that a rank holds.
std::string memory_text(const Recipe& recipe, const Machine& machine, const Model& model,
                        const SequenceRunner& plan, int ranks, int64_t samples) {
  const int parts = recipe.parallel.shard == "optimizer" ? ranks : 1;
  std::vector<Arena::Entry> entries =
      plan_param_store(model.params(), machine.precision, true, machine.leaf > 0, {parts, 0});
  add_entries(entries, plan.entries());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::string text;
  int64_t total = 0;
  for (const Arena::Entry& entry : entries) {
    text += fmt::format("  {:<22} {:>12}\n", entry.name, human_bytes(entry.bytes));
    total += entry.bytes;
  }
  text += fmt::format("  {:<22} {:>12}\n", "planned", human_bytes(total));
  text += fmt::format(
      "  {:<22} {:>12}  (in the host's memory, beside the plan)\n", "samples of a step",
      human_bytes(BatchLoader::bytes(samples, recipe.train.context, recipe.data.reset_documents)));
  return text + fmt::format("  {:<22} {:>12}  (this process before any plan, measured)\n",
                            "baseline", human_bytes(usage.ru_maxrss * int64_t{1024}));
}

// Sequences that a data group runs in a step, those that fill up its last micro-batch included.
std::vector<int64_t> sequences_run(const Recipe& recipe, const MeshShape& mesh,
                                   int64_t tokens_a_pass) {
  std::vector<int64_t> run;
  for (int group = 0; group < mesh.data; ++group) {
    const int64_t count = share_of(recipe.train.batch, mesh.data, group).count();
    const int64_t rows = plan_micro_batch(recipe, count, mesh.sequence, tokens_a_pass);
    run.push_back((count + rows - 1) / rows * rows);
  }
  return run;
}

// How sequences are cut up, what crosses the edges, and what that costs.
std::string sequence_text(const Recipe& recipe, const Machine& machine, const MeshShape& mesh,
                          const Model& model, const SequenceRunner& runner) {
  const SequencePlan& plan = runner.plan();
  const SegmentPlan& segments = plan.segments;
  std::string text = "sequence whole, on one rank\n";
  if (!plan.whole()) {
    const ExchangeLayout layout = exchange_layout(plan, model.config());
    Traffic most;
    int64_t all = 0;
    for (int rank = 0; rank < segments.ranks; ++rank) {
      const Traffic traffic = plan_traffic(plan, layout, rank);
      most = {std::max(most.bytes, traffic.bytes), traffic.messages};
      all += traffic.bytes;
    }
    const std::vector<int64_t> run = sequences_run(recipe, mesh, machine.tokens_a_pass);
    const int64_t rows = plan.model.batch;
    const int64_t most_run = *std::ranges::max_element(run);
    all = all / rows * std::accumulate(run.begin(), run.end(), int64_t{0});
    text = fmt::format(
        "sequence {} segments of {} tokens (overlap {}) in {} groups of {}; gradient {}, hand-off "
        "{}\n",
        segments.segments(), segments.chunk, segments.overlap, segments.groups(), segments.ranks,
        recipe.train.gradient, recipe.train.handoff);
    text += fmt::format(
        "sent     {} a rank and step, {} bytes in all (states and rows, {}), {} messages in a "
        "row\n",
        human_bytes(most.bytes * most_run / rows), all,
        plan.handing.state ? plan.exchange.chosen(segments.ranks).name : "none",
        most.messages * most_run / rows);
  }
  text += fmt::format("stash    {} a rank ({})\n", human_bytes(runner.stash_bytes()),
                      plan.whole() ? "the sequence is one segment" : plan.stash);
  const int forward = plan.forward_passes() + (recipe.train.recompute == "block" ? 1 : 0);
  return text + fmt::format("passes   {} forward, 1 backward{}\n", forward,
                            recipe.train.recompute == "block" ? " (1 of them: recompute)" : "");
}

std::string forecast_text(const Recipe& recipe, const Machine& machine, const Model& model,
                          const MeshShape& mesh, const SequencePlan& plan, int64_t passes,
                          const Calibration& measured, int hosts) {
  const auto parameters = static_cast<double>(count_elements(model.params()));
  const int64_t item = machine.leaf > 0 ? 8 : bytes_of(machine.precision.accumulate);
  const Forecast f =
      forecast_step({plan, exchange_layout(plan, model.config()), mesh.data, passes,
                     recipe.train.recompute == "block", item * count_elements(model.params()),
                     flops_per_token(model.config()), parameters,
                     cores_a_rank(recipe, measured.cores, (mesh.active() + hosts - 1) / hosts)},
                    measured);
  const auto tokens = static_cast<double>(recipe.train.batch * recipe.train.context);
  return fmt::format(
      "forecast {:.3g} s a step, {} tokens/s: {:.3g} computing, {:.3g} waiting for neighbours, "
      "{:.3g} gradients, {:.3g} update\n",
      f.seconds, human_count(tokens / f.seconds), f.compute, f.waiting(), f.gradients, f.update);
}

std::string plan_text(const Recipe& recipe, const Machine& machine, const Model& model,
                      const CheckArguments& arguments, const Calibration* measured) {
  const int ranks = arguments.ranks;
  const MeshShape mesh = plan_mesh(recipe, ranks, machine.leaf);
  const Share share = share_of(recipe.train.batch, mesh.data, mesh.data - 1);
  const int64_t micro =
      plan_micro_batch(recipe, share.count(), mesh.sequence, machine.tokens_a_pass);
  const int64_t passes = (share.count() + micro - 1) / micro;
  SequencePlan plan = plan_sequence(recipe, machine, mesh, micro);
  const auto sequence = make_planned(mesh.sequence, plan.segments.fullest_rank());
  if (plan.exchange.name == "two_level") {
    const int on_a_host = std::max(1, mesh.active() / arguments.hosts);
    plan.exchange.node = std::gcd(on_a_host, mesh.sequence);
  }
  const SequenceRunner runner(model, plan, *sequence, *machine.ops, false);
  const int64_t tokens = recipe.train.batch * recipe.train.context;
  const auto parameters = static_cast<double>(count_elements(model.params()));
  const double flops = flops_per_token(model.config());
  // A ring all-reduce sends 2 (n - 1) / n of the gradients; the step's totals are 8 numbers and
  // some.
  const double sent =
      2.0 * (mesh.active() - 1) / mesh.active() * parameters *
      static_cast<double>(machine.leaf > 0 ? 8 : bytes_of(machine.precision.accumulate));
  std::string text = fmt::format("recipe   {}: valid\n", recipe.name);
  text += fmt::format("model    {} parameters, {:.4g} FLOPs a token (forward and backward)\n",
                      human_count(parameters), flops);
  text += fmt::format("mesh     {} ranks: data {} x sequence {}, {} parked\n", ranks, mesh.data,
                      mesh.sequence, mesh.parked);
  text += fmt::format(
      "step     {} tokens: {} sequences of {}; a rank has up to {} in {} passes of {}\n", tokens,
      recipe.train.batch, recipe.train.context, share.count(), passes, micro);
  text += fmt::format("run      {} steps, {} tokens, {:.3g} FLOPs\n", recipe.train.steps,
                      human_count(static_cast<double>(tokens * recipe.train.steps)),
                      flops * static_cast<double>(tokens * recipe.train.steps));
  text += fmt::format("sent     {} a rank and step (gradients)\n",
                      human_bytes(static_cast<int64_t>(sent)));
  text += sequence_text(recipe, machine, mesh, model, runner);
  if (measured != nullptr) {
    text += forecast_text(recipe, machine, model, mesh, runner.plan(), passes, *measured,
                          arguments.hosts);
  }
  const int threads = machine.link.device >= 0 ? machine.cores : machine.threads;
  text += fmt::format("compute  {} · {} · {} thread{} a rank\n", machine.precision_name,
                      machine.numerics, threads, threads == 1 ? "" : "s");
  if (!machine.note.empty()) text += "note     " + machine.note + "\n";
  return text + "memory   a rank\n" +
         memory_text(recipe, machine, model, runner, mesh.active(), passes * micro);
}

// Measures this machine; the file replaces an old one.
ExitCode calibrate_machine(Context& context, const CheckArguments& arguments) {
  Recipe recipe;
  agree(context.world, [&] { recipe = load_recipe(arguments.recipe, arguments.overrides); });
  on_seats(context.world, recipe, [&](Communicator& workers, const Seat& seat) {
    workers.limit_waits(recipe.parallel.timeout);
    Machine machine;
    agree(workers, [&] {
      if (workers.size() < 2 && context.world.size() > 1) {
        throw InputError(
            fmt::format("--calibrate: one of {} ranks has a GPU of its own, two are needed: "
                        "parallel.share_gpu=true, or parallel.device=cpu",
                        context.world.size()));
      }
      machine = choose_machine(recipe, seat);
    });
    const Calibration measured = calibrate(recipe, machine, workers);
    on_root(workers, [&] {
      replace_file(arguments.calibrate, to_json(measured));
      std::fputs(to_json(measured).c_str(), stdout);
    });
    return int64_t{0};
  });
  return ExitCode::kDone;
}

ExitCode check(Context& context, const CheckArguments& arguments) {
  if (!arguments.calibrate.empty()) return calibrate_machine(context, arguments);
  const HostPlace place = host_place(context.world);
  on_root(context.world, [&] {
    const Recipe recipe = load_recipe(arguments.recipe, arguments.overrides);
    Machine machine = choose_machine(recipe, {place, 0});
    const Model model(complete_model(recipe));
    require_kernels(*machine.ops, model.config());
    if (arguments.params) {
      std::fputs(describe(model.params()).c_str(), stdout);
      return;
    }
    std::optional<Calibration> measured;
    if (!arguments.calibration.empty()) {
      measured = parse_calibration(read_file(arguments.calibration), arguments.calibration);
    }
    // Data that cannot be read is found here, not after an hour in a queue.
    const auto source = make_train_source(recipe, model.config().vocab);
    make_validation_source(recipe, model.config().vocab);
    make_sampler(recipe, *source);
    CheckArguments settled = arguments;
    if (settled.ranks == 0) settled.ranks = context.world.size();
    fit_passes(recipe, model.config(), machine,
               plan_mesh(recipe, static_cast<int>(settled.ranks), machine.leaf));
    const Calibration* calibration = measured ? &*measured : nullptr;
    std::fputs(plan_text(recipe, machine, model, settled, calibration).c_str(), stdout);
    std::printf("data     %s\n", source->describe().c_str());
  });
  return ExitCode::kDone;
}

}  // namespace

void add_check(CLI::App& app, CommandAction& chosen) {
  auto arguments = std::make_shared<CheckArguments>();
  CLI::App* command = app.add_subcommand("check", "validate a recipe and print its plan");
  command->add_option("RECIPE", arguments->recipe, "the recipe, a YAML file")->required();
  command->add_option("KEY=VALUE", arguments->overrides, "keys that replace the recipe's");
  command->add_flag("--params", arguments->params, "print the parameter table instead");
  command->add_option("--ranks", arguments->ranks, "plan for this many ranks [those of this job]")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--calibrate", arguments->calibrate,
                      "measure this machine on two ranks, for forecasts; write FILE");
  command->add_option("--calibration", arguments->calibration,
                      "forecast the time of a step from FILE");
  command->add_option("--hosts", arguments->hosts, "the planned ranks are on so many hosts [1]")
      ->check(CLI::Range(1, 1 << 20));
  command->callback([arguments, &chosen] {
    chosen = [arguments](Context& context) { return check(context, *arguments); };
  });
}

}  // namespace rwkv
