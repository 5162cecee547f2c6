// What the terminal shows of a run. Pure functions; each block is whole lines, every one ended by a
// newline. Columns line up by display width. `colour` is for terminals only: without it a text
// holds no escape sequence.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/train/metrics.h"

namespace rwkv {

std::string human_count(double);         // 128, 2.0k, 70.1k, 205k, 1.23M, 4.10G
std::string human_bytes(int64_t);        // 512 B, 1.5 KiB, 60 MiB
std::string human_time(double seconds);  // 0:58, 1:02:03, 2d 03:04:05; --:-- when not known

// Lines before the first step: a first line, then label and text.
struct Banner {
  std::string program = {};  // "rwkv-dist 0.1.0 (release, CPU build)"
  std::string host = {}, model = {}, data = {}, memory = {}, run = {};  // an empty one is left out
};
std::string banner(const Banner&, bool colour);

// Which columns the table of steps has.
struct LogTable {
  std::vector<std::string> skills = {};  // as in StepRow
  bool eval = false;                     // a column for the evaluation loss
  bool colour = false;
};
std::string log_header(const LogTable&);
// A skill or evaluation that the row lacks is a dash. `eta_seconds` may be NaN: not known. `note`
// follows the columns; one that starts with "warning" stands out in colour.
std::string log_row(const LogTable&, const StepRow&, double eta_seconds,
                    std::string_view note = {});

// For the first step of a model that was not trained before: its loss should be about ln vocab.
std::string first_loss_note(double loss, int64_t vocab);

// Lines after the last step.
struct Summary {
  std::span<const StepRow> rows = {};    // of the whole run
  std::vector<std::string> skills = {};  // as in LogTable
  std::optional<double> floor = {};      // entropy floor, nats a token
  std::string sample_title = {};         // "temperature 0.5"
  std::string sample = {};               // raw: controls are escaped here, newlines are kept
  // Label and text: {"saved", "runs/base/checkpoints/step-2000"}; an empty label goes on under the
  // one before, {"next", ...}, {"", ...}.
  std::vector<std::pair<std::string, std::string>> lines = {};
};
std::string summary(const Summary&, bool colour);

}  // namespace rwkv
