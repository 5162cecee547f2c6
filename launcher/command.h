// A sub-command: a function of its parsed arguments and the ranks.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/train/job.h"
#include "parallel/agree.h"
#include "parallel/communicator.h"

namespace rwkv {

// Where a command runs.
struct Context {
  Communicator& world;
  std::vector<std::string> arguments;  // the whole command line, program first
  // From this call on SIGINT, SIGTERM and SIGUSR1 set the flag instead of ending the process.
  const volatile int* (*catch_signals)() = nullptr;

  bool root() const { return world.rank() == 0; }
};

// The exit code that belongs to an error.
int code_of(const std::exception&);

// Says what failed on this rank alone, and ends all: its peers wait in a collective.
void abort_job(Communicator& world, const std::exception&);

// Runs what uses memory of a device, which must outlive the call. An error of this rank alone ends
// the job at once: to free that memory is to wait for its work, and that may wait for a lost rank.
template <class Work>
auto on_devices(Communicator& world, const Work& work) {
  try {
    return work();
  } catch (const AgreedError&) {
    throw;
  } catch (const std::exception& error) {
    if (world.size() > 1) abort_job(world, error);
    throw;
  }
}

// Runs on every rank. Prints through rank 0 only.
using CommandAction = std::function<ExitCode(Context&)>;

// Each adds its sub-command to the parser and puts what to do into `chosen` when it was named.
void add_train(CLI::App&, CommandAction& chosen);
void add_check(CLI::App&, CommandAction& chosen);
void add_eval(CLI::App&, CommandAction& chosen);
void add_generate(CLI::App&, CommandAction& chosen);
void add_report(CLI::App&, CommandAction& chosen);
void add_verify(CLI::App&, CommandAction& chosen);
void add_doctor(CLI::App&, CommandAction& chosen);
// Known and refused: data, import, export, flight.
void add_not_yet(CLI::App&, CommandAction& chosen);

// Parses a command line ("train" may be left out before a recipe). Throws InputError in one line; a
// CommandAction that prints help for --help.
CommandAction parse_command_line(const std::vector<std::string>& arguments);

// "rwkv-dist 0.1.0 (release, CPU and CUDA build)"
std::string program_line();
// "host · 2 ranks x 1 thread · avx512 · ..."
std::string host_line(Communicator& world, int active_ranks, const Machine&);

}  // namespace rwkv
