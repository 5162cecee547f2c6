// rwkv-dist eval SOURCE [key=value ...] [--dump FILE.h5 [--logits]]
#include <fmt/format.h>

#include <cmath>

#include "core/plan/mesh_shape.h"
#include "core/train/evaluator.h"
#include "launcher/command.h"
#include "launcher/dump.h"
#include "launcher/source.h"
#include "parallel/agree.h"

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

ExitCode evaluate(Context& context, const EvalArguments& arguments) {
  // A dump is one file by one writer; without one, all ranks share the samples.
  const bool alone = !arguments.dump.empty();
  LoadedSource loaded;
  std::unique_ptr<SampleSource> data;
  int64_t samples = 0;
  const int local_ranks = host_place(context.world).size;
  agree(context.world, [&] {
    if (arguments.logits && !alone) throw InputError("--logits needs --dump FILE.h5");
    loaded = load_source(arguments.source, arguments.overrides, alone ? 1 : local_ranks);
    if (loaded.recipe.train.context <= 0) {
      throw InputError("train.context is needed: how many tokens a sample has (train.context=512)");
    }
    data = make_eval_source(loaded.recipe, loaded.model->config().vocab);
    samples = eval_samples(loaded.recipe, *data);
  });
  const int64_t context_length = loaded.recipe.train.context;
  const int64_t rows = plan_micro_batch(loaded.recipe, samples);
  const Pass pass = loaded.pass();
  Totals totals(0);
  const auto run = [&](Communicator& ranks) {
    Workspace ws(*loaded.model, {loaded.machine.precision, rows, context_length,
                                 loaded.machine.threads, false, false, loaded.machine.leaf,
                                 loaded.machine.tile, alone ? Edges::kGiven : Edges::kWhole});
    Evaluator evaluator(*loaded.model, *data, rows, context_length);
    if (!alone) {
      totals = evaluator.run(pass, *loaded.store, ws, samples, ranks);
      return;
    }
    Dump dump(arguments.dump, *loaded.model, loaded.machine.precision, ws, samples,
              arguments.logits);
    totals = evaluator.run(pass, *loaded.store, ws, samples, ranks, dump.logits(),
                           [&](int64_t first, int64_t count) { dump.add(first, count); });
    dump.commit();
  };
  if (alone) {
    on_root(context.world, [&] { run(*make_self()); });
  } else {
    run(context.world);
  }
  if (context.root()) std::fputs(result_text(loaded, *data, totals).c_str(), stdout);
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
