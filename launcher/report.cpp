// rwkv-dist report RUN_DIR, and the commands that are not built yet.
#include "core/train/report.h"

#include <memory>

#include "launcher/command.h"
#include "parallel/agree.h"

namespace rwkv {

void add_report(CLI::App& app, CommandAction& chosen) {
  auto folder = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("report", "write report.html of a run folder");
  command->add_option("RUN_DIR", *folder, "the run folder")->required();
  command->callback([folder, &chosen] {
    chosen = [folder](Context& context) {
      on_root(context.world, [&] {
        write_report(*folder);
        std::printf("%s/report.html\n", folder->c_str());
      });
      return ExitCode::kDone;
    };
  });
}

void add_not_yet(CLI::App& app, CommandAction& chosen) {
  for (const char* name : {"data", "import", "export", "flight"}) {
    CLI::App* command = app.add_subcommand(name, "not yet");
    command->allow_extras();
    command->callback([name, &chosen] {
      chosen = [name](Context&) -> ExitCode {
        throw AgreedError("rwkv-dist " + std::string(name) + ": not yet", ExitCode::kBadInput);
      };
    });
  }
}

}  // namespace rwkv
