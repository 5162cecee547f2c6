// rwkv-dist verify CHECKPOINT|RUN_DIR: whether checkpoints are what was written. Writes nothing.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "core/base/hash.h"
#include "core/io/checkpoint.h"
#include "core/train/console.h"
#include "launcher/command.h"
#include "parallel/agree.h"

namespace rwkv {
namespace {

// "step-40: good, 3 files, 5.1 MiB, weights 0123456789abcdef"
std::string line_of(const std::string& checkpoint, const CheckpointState& state) {
  const std::string name = std::filesystem::path(checkpoint).filename();
  if (!state.fault.empty()) return fmt::format("{}: {}\n", name, state.fault);
  return fmt::format("{}: good, {} files, {}, weights {}\n", name, state.files,
                     human_bytes(state.bytes), to_hex(state.info.weights_hash));
}

ExitCode verify(const std::string& given) {
  std::string path = given;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  const bool single = is_checkpoint(path);
  const std::vector<std::string> checkpoints =
      single ? std::vector<std::string>{path} : checkpoints_of(path);
  const std::string lost = single ? "" : lost_checkpoint(path);
  if (checkpoints.empty() && lost.empty()) {
    throw InputError(path +
                     ": holds no checkpoint (a run folder or a checkpoints/step-N is wanted)");
  }
  bool good = lost.empty();
  for (const std::string& checkpoint : checkpoints) {
    const CheckpointState state = verify_checkpoint(checkpoint);
    // Of a run that is going on: an old one was removed while it was read.
    if (!single && !state.fault.empty() && !std::filesystem::exists(checkpoint)) continue;
    good = good && state.fault.empty();
    std::fputs(line_of(checkpoint, state).c_str(), stdout);
    std::fflush(stdout);
  }
  if (!lost.empty()) {
    CheckpointState state;
    state.fault = kLostFault;
    std::fputs(line_of(lost, state).c_str(), stdout);
  }
  return good ? ExitCode::kDone : ExitCode::kBadInput;
}

}  // namespace

void add_verify(CLI::App& app, CommandAction& chosen) {
  auto path = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("verify", "check every file of a checkpoint, or of all of a run folder");
  command->add_option("CHECKPOINT", *path, "a checkpoint (step-N) or a run folder")->required();
  command->callback([path, &chosen] {
    chosen = [path](Context& context) {
      auto code = static_cast<int64_t>(ExitCode::kDone);
      on_root(context.world, [&] { code = static_cast<int64_t>(verify(*path)); });
      return static_cast<ExitCode>(context.world.max(code));
    };
  });
}

}  // namespace rwkv
