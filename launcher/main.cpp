// rwkv-dist: the only catch and the only place that decides how the process ends.
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "launcher/command.h"
#include "parallel/agree.h"

namespace {

volatile std::sig_atomic_t* stop_flag() {
  static volatile std::sig_atomic_t flag = 0;
  return &flag;
}

void ask_to_stop(int) { *stop_flag() = 1; }

const volatile int* catch_signals() {
  stop_flag();  // made before a signal can come
  for (int signal : {SIGINT, SIGTERM, SIGUSR1}) std::signal(signal, ask_to_stop);
  std::signal(SIGPIPE, SIG_IGN);  // who reads what is printed may leave; training goes on
  return stop_flag();
}

// The OpenMP runtime reads its environment when it is loaded: before main. So the program sets what
// it wants (threads that wait must not spin: two processes on the same cores would starve each
// other) and starts itself again, once.
void prepare_environment(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  std::error_code error;
  // By its own path: the name of a process is that of its file.
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error && setenv("OMP_WAIT_POLICY", "passive", 0) == 0) execv(self.c_str(), argv);
  // Where that fails, threads spin: slower, not wrong.
}

int end_with(const rwkv::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return static_cast<int>(error.exit_code());
}

// All ranks read the same words: what is wrong with them is said once, when the ranks know each
// other.
rwkv::CommandAction parse(const std::vector<std::string>& arguments) {
  try {
    return rwkv::parse_command_line(arguments);
  } catch (const rwkv::InputError& error) {
    return [what = std::string(error.what())](rwkv::Context&) -> rwkv::ExitCode {
      throw rwkv::AgreedError(what, rwkv::ExitCode::kBadInput);
    };
  }
}

int run(const std::vector<std::string>& arguments, rwkv::CommandAction& action) {
  const auto world = rwkv::under_launcher() ? rwkv::make_mpi() : rwkv::make_self();
  rwkv::Context context{*world, arguments, catch_signals};
  try {
    return static_cast<int>(action(context));
  } catch (const rwkv::AgreedError& error) {
    // All ranks are here with the same error: one speaks, and all end in good order.
    if (world->rank() == 0) std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    if (world->size() == 1) {
      std::fprintf(stderr, "%s\n", error.what());
      return rwkv::code_of(error);
    }
    rwkv::abort_job(*world, error);
  }
  return static_cast<int>(rwkv::ExitCode::kFatal);
}

}  // namespace

int main(int argc, char** argv) {
  prepare_environment(argv);
  const std::vector<std::string> arguments(argv, argv + argc);
  try {
    rwkv::CommandAction action = parse(arguments);
    return run(arguments, action);
  } catch (const rwkv::Error& error) {
    return end_with(error);
  } catch (const std::exception& error) {
    return end_with(rwkv::Error(error.what()));
  }
}
