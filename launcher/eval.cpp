// rwkv-dist eval SOURCE [key=value ...] [--dump FILE.h5 [--logits]]
#include <fmt/format.h>

#include <cmath>

#include "core/train/evaluator.h"
#include "core/train/trainer.h"
#include "launcher/command.h"
#include "launcher/dump.h"
#include "launcher/source.h"
#include "parallel/agree.h"
#include "parallel/device_ranks.h"

namespace rwkv {
namespace {

struct EvalArguments {
  std::string source, dump;
  std::vector<std::string> overrides;
  bool logits = false;
};

std::string result_text(const LoadedSource& loaded, const SampleSource& data,
                        const Totals& totals) {
  std::string text = fmt::format("loss {:.6f}  perplexity {:.4f}  tokens {:.0f}",
                                 totals.mean_loss(), std::exp(totals.mean_loss()), totals.weight());
  if (std::isfinite(totals.nats())) {
    text += fmt::format("  floor {:.6f}  above {:.2f}%", totals.floor(),
                        percent_above_floor(totals, loaded.model->config().vocab));
  }
  for (const std::string& line : skill_lines(totals, data)) text += "\n" + line;
  return text + "\n";
}

// What is evaluated, and how it is shared out.
struct EvalJob {
  LoadedSource loaded;
  std::unique_ptr<SampleSource> data;
  int64_t samples = 0;
  MeshShape mesh;
};

EvalJob prepare(const EvalArguments& arguments, const Recipe& given, int ranks, const Seat& seat) {
  EvalJob job{load_source(arguments.source, given, seat), nullptr, 0, {}};
  Recipe& recipe = job.loaded.recipe;
  if (recipe.train.context <= 0) {
    throw InputError("train.context is needed: how many tokens a sample has (train.context=512)");
  }
  job.data = make_eval_source(recipe, job.loaded.model->config().vocab);
  job.samples = eval_samples(recipe, *job.data);
  recipe.train.batch = job.samples;
  job.mesh = plan_mesh(recipe, ranks, job.loaded.machine.leaf);
  return job;
}

// On the ranks that work, of those of `world`. Collective over `ranks`.
Totals run(const EvalArguments& arguments, const EvalJob& job, Communicator& ranks,
           Communicator& world) {
  const LoadedSource& loaded = job.loaded;
  const MeshShape& mesh = job.mesh;
  const auto sequence = ranks.split(mesh.data_group(ranks.rank()), mesh.place(ranks.rank()));
  DeviceRanks device_sequence(*sequence, *loaded.machine.ops->memory, loaded.machine.link);
  const Share share = share_of(job.samples, mesh.data, mesh.data_group(ranks.rank()));
  const int64_t rows = std::max<int64_t>(
      1,
      plan_micro_batch(loaded.recipe, share.count(), mesh.sequence, loaded.machine.tokens_a_pass));
  const int64_t tokens = loaded.recipe.train.context;
  std::unique_ptr<SequenceRunner> runner;
  std::unique_ptr<Dump> dump;
  agree(ranks, [&] {
    const auto exchange = find_exchange_kind(loaded.recipe.parallel.exchange, *sequence);
    SequencePlan plan = plan_sequence(loaded.recipe, loaded.machine, mesh, rows);
    plan.exchange = exchange;
    plan.model.backward = plan.model.recompute = false;
    plan.leaves = !arguments.dump.empty();
    runner = std::make_unique<SequenceRunner>(*loaded.model, plan, device_sequence.get(),
                                              *loaded.machine.ops);
    if (!plan.leaves) return;
    dump = std::make_unique<Dump>(arguments.dump, *loaded.model, *runner, job.samples,
                                  arguments.logits, *loaded.machine.ops->memory);
  });
  Tally tally(rows, tokens, !job.data->skills().empty(), loaded.machine.leaf, *sequence);
  Evaluator evaluator(*job.data, rows, tokens, loaded.recipe.data.reset_documents);
  const Evaluator::Place place{*runner, tally, share, sequence->rank() == 0};
  return on_devices(world, [&] {
    if (dump == nullptr) return evaluator.run(loaded.pass(), *loaded.store, place, ranks);
    Evaluator::Visit add = [&](int64_t first, int64_t count, const SequenceRunner::Result& result) {
      dump->add(first, count, result);
    };
    Totals totals = evaluator.run(loaded.pass(), *loaded.store, place, ranks, add, dump->logits());
    dump->commit();
    return totals;
  });
}

ExitCode evaluate(Context& context, const EvalArguments& arguments) {
  Communicator& world = context.world;
  EvalJob job;
  Totals totals(0);
  Recipe recipe;
  agree(world, [&] {
    if (arguments.logits && arguments.dump.empty()) {
      throw InputError("--logits needs --dump FILE.h5");
    }
    recipe = source_recipe(arguments.source, arguments.overrides);
  });
  if (!arguments.dump.empty()) {  // one file by one writer
    on_root(world, [&] {
      job = prepare(arguments, recipe, 1, {});
      const auto self = make_self();
      totals = run(arguments, job, *self, *self);
    });
  } else {  // all that work share it
    on_seats(world, recipe, [&](Communicator& workers, const Seat& seat) {
      agree(workers, [&] { job = prepare(arguments, recipe, workers.size(), seat); });
      settle_alike(workers, job.loaded.machine);
      require_same_weights(workers, job.loaded, arguments.source);
      require_same(workers, static_cast<uint64_t>(job.samples),
                   "data.path: ranks see different numbers of samples");
      return on_first(workers, job.mesh.active(), [&](Communicator& ranks) {
        ranks.limit_waits(recipe.parallel.timeout);
        totals = run(arguments, job, ranks, world);
        return int64_t{0};
      });
    });
  }
  if (context.root()) std::fputs(result_text(job.loaded, *job.data, totals).c_str(), stdout);
  return ExitCode::kDone;
}

}  // namespace

void add_eval(CLI::App& app, CommandAction& chosen) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command = app.add_subcommand("eval", "loss over data, each sample once, in order");
  command->add_option("SOURCE", arguments->source, "run folder, checkpoint or .pth")->required();
  command->add_option("KEY=VALUE", arguments->overrides, "keys that replace the recipe's");
  command->add_option("--dump", arguments->dump,
                      "write loss and final state of each sample (HDF5)");
  command->add_flag("--logits", arguments->logits, "and the logits");
  command->callback([arguments, &chosen] {
    chosen = [arguments](Context& context) { return evaluate(context, *arguments); };
  });
}

}  // namespace rwkv
