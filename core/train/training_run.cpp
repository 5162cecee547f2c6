#include "core/train/training_run.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/config/load.h"
#include "core/data/tokenizer.h"
#include "core/io/checkpoint.h"
#include "core/plan/param_table.h"
#include "core/train/console.h"
#include "core/train/display_text.h"
#include "core/train/memory_room.h"
#include "core/train/report.h"
#include "core/train/text_generator.h"
#include "parallel/agree.h"

namespace rwkv {
namespace {

constexpr int64_t kSampleTokens = 200;
constexpr double kSampleTemperature = 0.5;

class Run {
 public:
  Run(Trainer& trainer, const Machine& machine, Communicator& ranks, const RunSetup& setup)
      : trainer_(trainer), machine_(machine), ranks_(ranks), setup_(setup) {}

  ExitCode go();

 private:
  const Recipe& recipe() const { return trainer_.recipe(); }
  bool speaks() const { return setup_.folder != nullptr; }
  void say(const std::string& text) const;
  bool take_step(int64_t step, StepRow& row);
  std::string header() const;
  std::string model_line() const;
  std::string memory_line() const;
  void begin();
  void take_products();
  void after_step(StepRow& row);
  void log(const StepRow& row);
  void evaluate_into(StepRow& row);
  void save(const StepRow& row, bool must);
  CheckpointInfo info_of(const StepRow& row) const;
  void tolerate(int64_t step, const std::function<void()>& saving);
  void finish_pending();
  std::string unsaved_line() const;
  void finish(const StepRow& last);
  std::vector<std::string> held_out_lines() const;

  Trainer& trainer_;
  const Machine& machine_;
  Communicator& ranks_;
  const RunSetup& setup_;
  LogTable table_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::vector<StepRow> rows_;
  std::optional<Totals> held_out_;
  double seconds_ = 0;   // spent in steps since this process started
  int64_t done_ = 0;     // steps since this process started
  int64_t unsaved_ = 0;  // checkpoints that could not be written, the first of them after ...
  int64_t first_unsaved_ = 0;
  std::string run_id_;
  std::unique_ptr<PendingCheckpoint> pending_;  // being written while steps go on
};

void Run::say(const std::string& text) const {
  if (!speaks()) return;
  std::fputs(text.c_str(), setup_.out);
  std::fflush(setup_.out);
}

std::string Run::model_line() const {
  const ModelConfig& m = trainer_.model().config();
  return fmt::format("RWKV-7 L{} D{} H{}x{}, vocab {} · {} parameters · {}", m.layers, m.width,
                     m.width / m.head_size, m.head_size, m.vocab,
                     human_count(static_cast<double>(count_elements(trainer_.model().params()))),
                     machine_.precision_name);
}

std::string Run::header() const {
  nlohmann::ordered_json json;
  json["run"] = recipe().name;
  json["machine"] = setup_.host;
  json["numerics"] = machine_.numerics;
  json["model"] = model_line();
  json["data"] = trainer_.source().describe();
  json["ranks"] = ranks_.size();
  json["seed"] = recipe().run.seed;
  // Names of files may be of any bytes.
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

// The sum, and what holds at least a twentieth of it.
std::string Run::memory_line() const {
  const std::vector<Arena::Entry> entries = trainer_.memory();
  int64_t bytes = 0;
  for (const Arena::Entry& entry : entries) bytes += entry.bytes;
  std::string parts;
  for (const Arena::Entry& entry : entries) {
    if (entry.bytes * 20 < bytes) continue;
    parts +=
        fmt::format("{}{} {}", parts.empty() ? "" : ", ", entry.name, human_bytes(entry.bytes));
  }
  return fmt::format("{} planned a rank ({})", human_bytes(bytes), parts);
}

void Run::begin() {
  if (!speaks()) return;
  const Recipe& r = recipe();
  const std::string folder = setup_.folder->path();
  say(banner({.program = setup_.program,
              .host = setup_.host,
              .model = model_line(),
              .data = fmt::format(
                  "{} · {} tokens/step x {} steps = {} tokens", trainer_.source().describe(),
                  trainer_.tokens_a_step(), r.train.steps,
                  human_count(static_cast<double>(trainer_.tokens_a_step() * r.train.steps))),
              .memory = memory_line(),
              .run = folder + "/  config.yaml  metrics.jsonl  checkpoints/  report.html"},
             setup_.colour));
  if (!machine_.note.empty()) say("note    " + machine_.note + "\n");
  if (setup_.resume.step > 0) {
    say(fmt::format("resume  {} · step {}\n", setup_.resume.checkpoint, setup_.resume.step));
    if (setup_.resume.numerics != machine_.numerics) {
      say(
          fmt::format("note    the checkpoint was computed by '{}', this run by '{}': from here on "
                      "the bits are others\n",
                      setup_.resume.numerics, machine_.numerics));
    }
    const int64_t before = setup_.resume.tokens_a_pass, now = fitted_tokens(recipe(), machine_);
    if (machine_.leaf == 0 && before > 0 && now > 0 && now != before) {
      say(
          fmt::format("note    memory is for passes of {} tokens, the checkpoint's had {}: from "
                      "here on the bits are others\n",
                      now, before));
    }
  }
  setup_.folder->write_config(r);
  metrics_ =
      std::make_unique<MetricsWriter>(setup_.folder->metrics(), header(), setup_.resume.step);
  rows_ = read_metrics(setup_.folder->metrics(), nullptr);
  table_ = {trainer_.source().skills(), trainer_.has_validation(), setup_.colour};
  say("\n" + log_header(table_));
}

void Run::evaluate_into(StepRow& row) {
  held_out_ = trainer_.evaluate();
  if (!held_out_) return;
  row.eval_loss = held_out_->mean_loss();
  if (std::isfinite(held_out_->nats())) row.eval_floor = held_out_->floor();
}

void Run::log(const StepRow& row) {
  const bool first = row.step == 1 && recipe().run.init_from.empty();
  const bool due = recipe().log.every > 0 && row.step % recipe().log.every == 0;
  if (!first && !due && !row.eval_loss && row.step != recipe().train.steps) return;
  const double left = static_cast<double>(recipe().train.steps - row.step);
  say(log_row(table_, row, left * seconds_ / static_cast<double>(done_),
              first ? first_loss_note(row.loss, trainer_.model().config().vocab) : ""));
}

void Run::after_step(StepRow& row) {
  ++done_;
  seconds_ += row.seconds;
  const bool last = row.step == recipe().train.steps;
  const int64_t every = recipe().eval.every;
  if (last || (every > 0 && row.step % every == 0)) evaluate_into(row);
  if (!speaks()) return;
  if (done_ == 1) setup_.folder->write_products(trainer_.product_choices());
  metrics_->append(row);
  rows_.push_back(row);
  log(row);
}

CheckpointInfo Run::info_of(const StepRow& row) const {
  CheckpointInfo info;
  info.step = row.step;
  info.tokens = row.tokens;
  info.recipe = to_yaml(recipe());
  info.numerics = machine_.numerics;
  info.products = trainer_.product_choices();
  info.tokens_a_pass = fitted_tokens(recipe(), machine_);
  info.data_tokens = trainer_.data_tokens();
  info.loss_scale = trainer_.loss_scale();
  info.repeated_passes = setup_.resume.repeated_passes + trainer_.repeated_passes();
  info.run_id = run_id_;
  return info;
}

// A full disk must not end a run whose next checkpoint may find room; `must`: there is no next one.
void Run::save(const StepRow& row, bool must) {
  finish_pending();
  // The rows must be on the disk before a checkpoint says that their steps are done.
  const auto flush = [&] { on_root(ranks_, [&] { metrics_->flush(); }); };
  // Rank 0 names the folder; the others write where it says.
  const std::string folder =
      ranks_.broadcast(speaks() ? setup_.folder->checkpoints() : std::string(), 0);
  const int64_t keep = recipe().checkpoint.keep;
  if (must) {
    flush();
    return save_checkpoint(folder, info_of(row), trainer_.store(), keep, ranks_);
  }
  tolerate(row.step, [&] {
    flush();
    if (recipe().checkpoint.async) {
      pending_ =
          std::make_unique<PendingCheckpoint>(folder, info_of(row), trainer_.store(), keep, ranks_);
    } else {
      save_checkpoint(folder, info_of(row), trainer_.store(), keep, ranks_);
    }
  });
}

// Counts and says a checkpoint that could not be written.
void Run::tolerate(int64_t step, const std::function<void()>& saving) {
  try {
    saving();
  } catch (const AgreedError& error) {
    if (unsaved_++ == 0) first_unsaved_ = step;
    say(fmt::format("warning checkpoint step-{} was not written, the run goes on: {}\n", step,
                    error.what()));
  }
}

void Run::finish_pending() {
  if (pending_ == nullptr) return;
  const auto pending = std::move(pending_);
  tolerate(pending->step(), [&] { pending->finish(); });
}

std::string Run::unsaved_line() const {
  return fmt::format("{} checkpoint{} could not be written, the first after step {}", unsaved_,
                     unsaved_ == 1 ? "" : "s", first_unsaved_);
}

std::vector<std::string> Run::held_out_lines() const {
  if (!held_out_) return {};
  std::string loss = fmt::format("held-out loss {:.4f}", held_out_->mean_loss());
  if (std::isfinite(held_out_->nats())) {
    loss += fmt::format(" · entropy floor {:.4f} · {:.2f}% of (ln V - floor) above it",
                        held_out_->floor(),
                        percent_above_floor(*held_out_, trainer_.model().config().vocab));
  }
  std::vector<std::string> lines = skill_lines(*held_out_, trainer_.source());
  lines.insert(lines.begin(), loss);
  return lines;
}

void Run::finish(const StepRow& last) {
  if (!speaks()) return;
  metrics_->close();
  write_report(setup_.folder->path());
  Summary end;
  end.rows = rows_;
  end.skills = table_.skills;
  if (held_out_ && std::isfinite(held_out_->nats())) end.floor = held_out_->floor();
  const auto tokenizer = make_tokenizer(recipe().data.tokenizer);
  if (tokenizer->vocab() <= trainer_.model().config().vocab) {
    const std::string prompt = trainer_.source().prompt();
    end.sample_title = fmt::format("temperature {:g}", kSampleTemperature);
    const auto tokens = encode_prompt(*tokenizer, prompt, true, trainer_.model().config().vocab);
    end.sample = prompt + generate_text(trainer_.pass(), trainer_.model(), trainer_.store(),
                                        trainer_.precision(), *tokenizer, tokens,
                                        {.tokens = kSampleTokens,
                                         .temperature = kSampleTemperature,
                                         .seed = recipe().run.seed},
                                        *make_self());
  }
  const std::string folder = setup_.folder->path();
  for (const std::string& line : held_out_lines()) {
    end.lines.emplace_back(end.lines.empty() ? "result" : "", line);
  }
  if (unsaved_ > 0) end.lines.emplace_back("warning", unsaved_line());
  end.lines.emplace_back("saved", fmt::format("{}/checkpoints/step-{}", folder, last.step));
  end.lines.emplace_back("report", folder + "/report.html");
  end.lines.emplace_back("next", fmt::format("rwkv-dist generate {} --prompt \"{}\"",
                                             shell_word(folder), trainer_.source().prompt()));
  end.lines.emplace_back("", "rwkv-dist eval " + shell_word(folder));
  say("\n" + summary(end, setup_.colour));
}

// Those of the checkpoint, where they are of this library and GPU.
void Run::take_products() {
  if (setup_.resume.products.empty()) return;
  const std::string why = trainer_.take_product_choices(setup_.resume.products);
  if (why.empty()) return;
  say(fmt::format("note    algorithms of products are not the checkpoint's: {}\n", why));
}

bool Run::take_step(int64_t step, StepRow& row) {
  try {
    return trainer_.train_step(step, row);
  } catch (const AgreedError&) {
    finish_pending();  // what was saved before is good
    throw;
  }
}

ExitCode Run::go() {
  on_root(ranks_, [&] { begin(); });
  take_products();
  run_id_ =
      ranks_.broadcast(setup_.resume.run_id.empty() ? make_run_id() : setup_.resume.run_id, 0);
  const Recipe& r = recipe();
  StepRow row;
  row.step = setup_.resume.step;
  for (int64_t step = setup_.resume.step; step < r.train.steps; ++step) {
    const bool asked = take_step(step, row);
    row.eval_loss.reset();
    row.eval_floor.reset();
    after_step(row);
    if (pending_ != nullptr && ranks_.min(pending_->written() ? 1 : 0) == 1) finish_pending();
    const bool last = row.step == r.train.steps;
    const bool stop = !last && (asked || row.step == r.train.stop_at);
    const bool due = r.checkpoint.every > 0 && row.step % r.checkpoint.every == 0;
    if (last || stop || due) save(row, last || stop);
    if (stop) {
      if (speaks()) metrics_->close();
      if (unsaved_ > 0) say("warning " + unsaved_line() + "\n");
      say(fmt::format("stopped after step {}; checkpoint written. To go on:\n  {}\n", row.step,
                      setup_.command));
      return ExitCode::kStopped;
    }
  }
  ranks_.limit_waits(std::numeric_limits<double>::infinity());  // rank 0 works alone
  on_root(ranks_, [&] { finish(row); });
  return ExitCode::kDone;
}

}  // namespace

ExitCode run_training(Trainer& trainer, const Machine& machine, Communicator& ranks,
                      const RunSetup& setup) {
  return Run(trainer, machine, ranks, setup).go();
}

}  // namespace rwkv
