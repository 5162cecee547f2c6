#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "core/config/load.h"
#include "kernels/cuda_library.h"
#include "launcher/command.h"

namespace rwkv {
namespace {

constexpr std::string_view kVersion = RWKV_VERSION;

CommandAction printing(const std::string& text) {
  return [text](Context& context) {
    if (context.root()) std::fputs(text.c_str(), stdout);
    return ExitCode::kDone;
  };
}

bool is_recipe(const std::string& argument) {
  return argument.ends_with(".yaml") || argument.ends_with(".yml");
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

std::string program_line() {
  return fmt::format("rwkv-dist {} ({}, {} build)", kVersion, RWKV_BUILD_TYPE,
                     has_cuda_library() ? "CPU and CUDA" : "CPU");
}

std::string host_line(Communicator& world, int active_ranks, const Machine& machine) {
  char host[256] = "host";
  gethostname(host, sizeof host - 1);
  const int threads = machine.threads;
  const std::string where =
      machine.link.device >= 0
          ? fmt::format("one GPU ({})", cuda_library().device)
          : fmt::format("{} thread{} · {}", threads, threads == 1 ? "" : "s", machine.ops->isa);
  return fmt::format("{} · {} rank{} x {} · {}", host, active_ranks, active_ranks == 1 ? "" : "s",
                     where, world.name());
}

CommandAction parse_command_line(const std::vector<std::string>& arguments) {
  CLI::App app("Trains RWKV-7 language models over many ranks.", "rwkv-dist");
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", program_line());
  app.footer(
      "\n`rwkv-dist RECIPE.yaml [key=value ...]` trains; any key of a recipe can be given:\n" +
      recipe_help());
  CommandAction chosen;
  add_train(app, chosen);
  add_check(app, chosen);
  add_eval(app, chosen);
  add_generate(app, chosen);
  add_report(app, chosen);
  add_verify(app, chosen);
  add_doctor(app, chosen);
  add_not_yet(app, chosen);

  std::vector<std::string> words(arguments.begin() + 1, arguments.end());
  if (!words.empty() && is_recipe(words.front())) words.insert(words.begin(), "train");
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    app.parse(words);
  } catch (const CLI::CallForHelp&) {
    const auto named = app.get_subcommands();
    return printing(named.empty() ? app.help() : named.front()->help());
  } catch (const CLI::CallForVersion&) {
    return printing(program_line() + "\n");
  } catch (const CLI::ParseError& error) {
    throw InputError(
        fmt::format("{} (rwkv-dist --help lists commands and keys)", first_line(error.what())));
  }
  if (!chosen) return printing(app.help());
  return chosen;
}

int code_of(const std::exception& error) {
  const auto* typed = dynamic_cast<const Error*>(&error);
  return static_cast<int>(typed != nullptr ? typed->exit_code() : ExitCode::kFatal);
}

void abort_job(Communicator& world, const std::exception& error) {
  std::fprintf(stderr, "[rank %d] %s\n", world.rank(), error.what());
  world.abort(code_of(error));
}

}  // namespace rwkv
