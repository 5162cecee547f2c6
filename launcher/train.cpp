// rwkv-dist [train] RECIPE.yaml [key=value ...]
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "core/base/posix_file.h"
#include "core/config/load.h"
#include "core/io/checkpoint.h"
#include "core/train/display_text.h"
#include "core/train/memory_room.h"
#include "core/train/training_run.h"
#include "launcher/command.h"
#include "parallel/agree.h"

namespace rwkv {
namespace {

struct TrainArguments {
  std::string recipe;
  std::vector<std::string> overrides;
};

// Rank 0 reads, all parse the same text.
Recipe load_everywhere(Communicator& world, const TrainArguments& arguments) {
  std::string text;
  on_root(world, [&] { text = read_file(arguments.recipe); });
  text = world.broadcast(text, 0);
  Recipe recipe;
  agree(world, [&] { recipe = parse_recipe(text, arguments.recipe, arguments.overrides); });
  return recipe;
}

// How the user would go on with this run, as far as a process can know: the same words, but for a
// run.resume=never, which would start anew.
std::string command_again(const Context& context, const Recipe& recipe) {
  std::string line =
      context.world.size() > 1 ? fmt::format("mpirun -n {}", context.world.size()) : std::string();
  const bool anew = recipe.run.resume == "never";
  for (const std::string& argument : context.arguments) {
    if (anew && argument.starts_with("run.resume=")) continue;
    line += (line.empty() ? "" : " ") + shell_word(argument);
  }
  return anew ? line + " run.resume=auto" : line;
}

// Weights and moments of the checkpoint. Collective.
void load_state(const ResumePoint& resume, Trainer& trainer, Communicator& ranks) {
  agree(ranks, [&] { load_checkpoint(resume.checkpoint, trainer.store(), true); });
  trainer.weights_changed();
  if (resume.loss_scale) trainer.set_loss_scale(*resume.loss_scale);
}

// With the weights that a run begins or goes on with, the same on all ranks. Collective.
std::unique_ptr<Trainer> make_trainer(const Recipe& recipe, Machine& machine, const MeshShape& mesh,
                                      const ResumePoint& resume, Communicator& ranks) {
  const bool goes_on = !resume.checkpoint.empty();
  const std::string& weights = goes_on ? resume.checkpoint : recipe.run.init_from;
  ModelConfig model;
  agree(ranks, [&] { model = complete_model(recipe, weights); });
  Recipe resolved = recipe;
  resolved.model.head_size = model.head_size;
  settle_passes(recipe, model, machine, mesh, resume.tokens_a_pass, ranks);
  std::unique_ptr<Trainer> trainer;
  agree(ranks, [&] {
    trainer = std::make_unique<Trainer>(resolved, model, machine, ranks);
    if (!goes_on) trainer->set_first_weights();
  });
  if (goes_on) load_state(resume, *trainer, ranks);
  // Each rank has read for itself, through a view of its own of the file system.
  require_same(ranks, trainer->store().hash(),
               weights.empty() ? "initial weights differ between the hosts"
                               : weights + ": ranks have read different weights");
  trainer->require_same_data();
  if (resume.data_tokens > 0 && resume.data_tokens != trainer->data_tokens()) {
    throw AgreedError(
        fmt::format("data.path has {} tokens, and had {} when {} was written: restore it, or start "
                    "another run (run.dir=..., or run.resume=never run.init_from={})",
                    trainer->data_tokens(), resume.data_tokens, weights, weights),
        ExitCode::kBadInput);
  }
  return trainer;
}

// On the ranks that work. Collective over `ranks`.
ExitCode train_on(Context& context, const Recipe& recipe, Machine machine, const MeshShape& mesh,
                  Communicator& ranks) {
  const volatile int* stop_flag = context.catch_signals();
  std::unique_ptr<RunFolder> folder;
  std::exception_ptr unlocked;  // a run that is finished may be read-only
  // One that is there already is locked before it is read; a new one is made when all else is good.
  on_root(ranks, [&] {
    if (!std::filesystem::exists(recipe.run.dir + "/lock")) return;
    try {
      folder = std::make_unique<RunFolder>(recipe.run.dir);
    } catch (const IoError&) {
      unlocked = std::current_exception();
    }
  });
  const ResumePoint resume = find_resume_point(recipe, ranks);
  const bool root = ranks.rank() == 0;
  for (const std::string& fault : resume.faults) {
    if (root) std::printf("%s\n", fault.c_str());
  }
  if (resume.finished) {
    if (root) {
      std::printf("%s is finished (%lld steps): nothing to do\n", resume.checkpoint.c_str(),
                  static_cast<long long>(recipe.train.steps));
    }
    return ExitCode::kDone;
  }
  on_root(ranks, [&] {
    if (unlocked != nullptr) std::rethrow_exception(unlocked);
  });
  // Not before: which files of a checkpoint a rank has verified differs.
  ranks.limit_waits(recipe.parallel.timeout);
  const auto trainer = make_trainer(recipe, machine, mesh, resume, ranks);
  machine.numerics += trainer->link();
  on_root(ranks, [&] {
    if (folder == nullptr) folder = std::make_unique<RunFolder>(recipe.run.dir);
    if (!resume.own) folder->start_afresh();
    set_checkpoints_aside(resume.damaged, resume.checkpoint);
  });
  trainer->set_stop_flag(stop_flag);
  const RunSetup setup{
      resume,
      folder.get(),
      stdout,
      isatty(STDOUT_FILENO) == 1 && !under_launcher(),  // mpirun gives a pty always
      program_line(),
      host_line(context.world, mesh.active(), machine),
      command_again(context, recipe)};
  return on_devices(context.world, [&] { return run_training(*trainer, machine, ranks, setup); });
}

// On the ranks that have a seat; those beyond the mesh are parked too. Collective over `workers`.
ExitCode train_on_workers(Context& context, const Recipe& recipe, const Seat& seat,
                          Communicator& workers) {
  Machine machine;
  MeshShape mesh;
  agree(workers, [&] {
    machine = choose_machine(recipe, seat);
    mesh = plan_mesh(recipe, workers.size(), machine.leaf);
  });
  settle_alike(workers, machine);
  if (mesh.active() < context.world.size() && context.root()) {
    std::printf("%d ranks, %d with work: %d parked (mpirun -n %d avoids this)\n",
                context.world.size(), mesh.active(), context.world.size() - mesh.active(),
                mesh.active());
  }
  return static_cast<ExitCode>(on_first(workers, mesh.active(), [&](Communicator& ranks) {
    return static_cast<int64_t>(train_on(context, recipe, machine, mesh, ranks));
  }));
}

ExitCode train(Context& context, const TrainArguments& arguments) {
  Communicator& world = context.world;
  // Launchers send signals to all ranks, to those that will be parked too.
  if (world.size() > 1) context.catch_signals();
  const Recipe recipe = load_everywhere(world, arguments);
  return static_cast<ExitCode>(
      on_seats(world, recipe, [&](Communicator& workers, const Seat& seat) {
        return static_cast<int64_t>(train_on_workers(context, recipe, seat, workers));
      }));
}

}  // namespace

void add_train(CLI::App& app, CommandAction& chosen) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "train a recipe (the word may be left out)");
  command->add_option("RECIPE", arguments->recipe, "the recipe, a YAML file")->required();
  command->add_option("KEY=VALUE", arguments->overrides, "keys that replace the recipe's");
  command->callback([arguments, &chosen] {
    chosen = [arguments](Context& context) { return train(context, *arguments); };
  });
}

}  // namespace rwkv
