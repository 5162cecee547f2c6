// A whole run around the trainer: banner, steps, log lines, evaluation, checkpoints, the end.
#pragma once

#include <cstdio>
#include <string>

#include "core/train/run_folder.h"
#include "core/train/trainer.h"

namespace rwkv {

// What a run is told from outside.
struct RunSetup {
  ResumePoint resume;
  RunFolder* folder = nullptr;  // rank 0 only; nullptr elsewhere
  std::FILE* out = nullptr;     // where rank 0 speaks
  bool colour = false;
  std::string program;  // "rwkv-dist 0.1.0 (release, CPU build)"
  std::string host;     // "laptop · 2 ranks x 1 thread · ..."
  std::string command;  // how the user would run it again
};

// Runs to the recipe's last step, to train.stop_at, or until a rank is asked to stop. Collective
// over the trainer's ranks. Returns kDone or kStopped; a checkpoint has been written in both cases.
ExitCode run_training(Trainer&, const Machine&, Communicator& ranks, const RunSetup&);

}  // namespace rwkv
