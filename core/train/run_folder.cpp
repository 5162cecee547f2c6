#include "core/train/run_folder.h"

#include <fmt/format.h>

#include <filesystem>
#include <sstream>
#include <vector>

#include "core/config/load.h"
#include "core/data/tokenizer.h"
#include "core/io/checkpoint.h"
#include "core/plan/param_table.h"
#include "parallel/agree.h"

namespace rwkv {
namespace fs = std::filesystem;
namespace {

std::string made(const std::string& path) {
  make_directories(path);
  return path;
}

// The recipe that a checkpoint was trained with.
Recipe saved_recipe(const std::string& checkpoint) {
  return parse_recipe(read_checkpoint_info(checkpoint).recipe, checkpoint + "/config.yaml", {});
}

}  // namespace

RunFolder::RunFolder(const std::string& path)
    : path_(made(path)), lock_(path + "/lock", "run folder " + path) {}

void RunFolder::write_config(const Recipe& recipe) const {
  replace_file(path_ + "/config.yaml", to_yaml(recipe));
}

void RunFolder::write_products(const std::string& text) const {
  if (!text.empty()) replace_file(path_ + "/products.txt", text);
}

void RunFolder::start_afresh() const {
  if (latest_checkpoint(path_).empty() && lost_checkpoint(path_).empty()) {
    fs::remove(metrics());
    return;
  }
  std::string before;
  int number = 0;
  do {
    before = fmt::format("{}/before-{}", path_, ++number);
  } while (fs::exists(before));
  make_directories(before);
  for (const char* name :
       {"metrics.jsonl", "config.yaml", "report.html", "products.txt", "checkpoints"}) {
    const std::string from = fmt::format("{}/{}", path_, name);
    if (fs::exists(from)) fs::rename(from, fmt::format("{}/{}", before, name));
  }
  fsync_path(path_);
}

std::string changed_key(const Recipe& before, const Recipe& now) {
  const auto resolved = [](const Recipe& recipe) {
    return resolve_model(recipe.model, make_tokenizer(recipe.data.tokenizer)->vocab());
  };
  const ModelConfig a = resolved(before), b = resolved(now);
  const std::vector<std::pair<std::string, bool>> same = {
      {"run.seed", before.run.seed == now.run.seed},
      {"model.layers", a.layers == b.layers},
      {"model.width", a.width == b.width},
      {"model.head_size", a.head_size == b.head_size || b.head_size == 0},
      {"model.ffn_width", a.ffn_width == b.ffn_width},
      {"model.vocab", a.vocab == b.vocab},
      {"model.lora_rank", a.lora_rank == b.lora_rank},
      {"data.source", before.data.source == now.data.source},
      {"data.path", before.data.path == now.data.path},
      {"data.tokenizer", before.data.tokenizer == now.data.tokenizer},
      {"data.sampler", before.data.sampler == now.data.sampler},
      {"data.reset_documents", before.data.reset_documents == now.data.reset_documents},
      {"data.validation", before.data.validation == now.data.validation},
      {"train.context", before.train.context == now.train.context},
      {"train.batch", before.train.batch == now.train.batch},
      {"loss.l2wrap", before.loss.l2wrap == now.loss.l2wrap},
      {"optimizer.lr", before.optimizer.lr == now.optimizer.lr},
      {"optimizer.lr_final", before.optimizer.lr_final == now.optimizer.lr_final},
      {"optimizer.schedule", before.optimizer.schedule == now.optimizer.schedule},
      {"optimizer.warmup", before.optimizer.warmup == now.optimizer.warmup},
      {"optimizer.betas", before.optimizer.beta1 == now.optimizer.beta1 &&
                              before.optimizer.beta2 == now.optimizer.beta2},
      {"optimizer.eps", before.optimizer.eps == now.optimizer.eps},
      {"optimizer.weight_decay", before.optimizer.weight_decay == now.optimizer.weight_decay},
      {"optimizer.clip", before.optimizer.clip == now.optimizer.clip},
      {"precision", before.precision == now.precision},
  };
  for (const auto& [key, equal] : same) {
    if (!equal) return key;
  }
  return "";
}

namespace {

// The first fault that any rank finds; empty: all call it good.
std::string fault_of(const std::string& checkpoint, Communicator& ranks) {
  std::string fault;
  agree(ranks, [&] { fault = verify_checkpoint(checkpoint, ranks.rank(), ranks.size()).fault; });
  const int64_t first = ranks.min(fault.empty() ? ranks.size() : ranks.rank());
  return first == ranks.size() ? "" : ranks.broadcast(fault, static_cast<int>(first));
}

// What rank 0 sees, newest first: a shared file system may show others a little of the past.
std::vector<std::string> candidates(const std::string& run_folder, Communicator& ranks) {
  std::string text;
  on_root(ranks, [&] {
    for (const std::string& path : checkpoints_of(run_folder)) text = path + "\n" + text;
  });
  std::istringstream lines(ranks.broadcast(text, 0));
  std::vector<std::string> paths;
  for (std::string path; std::getline(lines, path);) paths.push_back(path);
  return paths;
}

std::string name_of_step(const std::string& checkpoint) {
  return "checkpoint " + fs::path(checkpoint).filename().string();
}

// The newest good checkpoint of run.dir, if it has any checkpoint.
void find_own(const Recipe& recipe, Communicator& ranks, ResumePoint& point) {
  std::string lost;
  on_root(ranks, [&] { lost = lost_checkpoint(recipe.run.dir); });
  lost = ranks.broadcast(lost, 0);
  if (!lost.empty()) point.faults.push_back(name_of_step(lost) + ": " + kLostFault);
  const std::vector<std::string> all = candidates(recipe.run.dir, ranks);
  for (const std::string& path : all) {
    const std::string fault = fault_of(path, ranks);
    if (fault.empty()) {
      point.checkpoint = path;
      point.own = true;
      return;
    }
    point.damaged.push_back(path);
    point.faults.push_back(name_of_step(path) + ": " + fault);
  }
  if (point.faults.empty()) return;
  const size_t before = point.faults.size() - 1;
  const std::string others =
      before == 0 ? "" : fmt::format(" (nor any of the {} before it is good)", before);
  throw AgreedError(fmt::format("{}/checkpoints: {}{}; run.resume=never starts anew and keeps them",
                                recipe.run.dir, point.faults.front(), others),
                    ExitCode::kBadInput);
}

// The checkpoint that run.resume=PATH names. There is no other to fall back to: it was asked for.
std::string find_given(const std::string& path, Communicator& ranks) {
  std::string checkpoint;
  on_root(ranks, [&] {
    checkpoint = is_checkpoint(path) ? path : latest_checkpoint(path);
    if (checkpoint.empty()) {
      throw InputError("run.resume: no checkpoint in '" + path +
                       "' (a run folder or a checkpoints/step-N is wanted)");
    }
  });
  checkpoint = ranks.broadcast(checkpoint, 0);
  const std::string fault = fault_of(checkpoint, ranks);
  if (fault.empty()) return checkpoint;
  throw AgreedError(fmt::format("run.resume: {}: {}", checkpoint, fault), ExitCode::kBadInput);
}

// What the checkpoint says, if the recipe may go on from it.
void read_point(const Recipe& recipe, ResumePoint& point) {
  const CheckpointInfo info = read_checkpoint_info(point.checkpoint);
  const std::string key = changed_key(saved_recipe(point.checkpoint), recipe);
  if (!key.empty()) {
    throw InputError(fmt::format(
        "{} differs from the one that {} was trained with: restore it, or start another run "
        "(run.dir=..., or run.resume=never run.init_from={})",
        key, point.checkpoint, point.checkpoint));
  }
  point.step = info.step;
  point.tokens = info.tokens;
  point.numerics = info.numerics;
  point.products = info.products;
  point.tokens_a_pass = info.tokens_a_pass;
  point.data_tokens = info.data_tokens;
  point.loss_scale = info.loss_scale;
  point.repeated_passes = info.repeated_passes;
  point.finished = info.step >= recipe.train.steps;
  if (point.own) point.run_id = info.run_id;
}

}  // namespace

ResumePoint find_resume_point(const Recipe& recipe, Communicator& ranks) {
  ResumePoint point;
  const std::string& how = recipe.run.resume;
  if (how == "never") return point;
  find_own(recipe, ranks, point);
  if (how != "auto") {
    agree(ranks, [&] {
      if (!point.own || saved_recipe(point.checkpoint).run.resume == how) return;
      throw InputError(fmt::format(
          "run.resume: '{}' starts a fresh run folder, but run.dir {} holds another run: give a "
          "run.dir of its own",
          how, recipe.run.dir));
    });
    if (!point.own) point.checkpoint = find_given(how, ranks);
  }
  if (point.checkpoint.empty()) return point;
  agree(ranks, [&] { read_point(recipe, point); });
  return point;
}

}  // namespace rwkv
