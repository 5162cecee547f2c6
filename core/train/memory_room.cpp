#include "core/train/memory_room.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/train/console.h"
#include "core/train/trainer.h"
#include "parallel/agree.h"

namespace rwkv {

namespace {

// What is taken on a device beside the plan, about: kernels' code and stacks, graphs; between
// ranks NCCL's buffers, some 10 MiB a channel and neighbour for each of two communicators, of which
// most is taken when they are made.
constexpr int64_t kForLinks = int64_t{768} << 20;
int64_t for_libraries(int64_t free) { return std::min(int64_t{256} << 20, free / 16); }

}  // namespace

void require_room(const Memory& memory, const std::vector<Arena::Entry>& entries) {
  const int64_t free = memory.available();
  if (free < 0) return;
  const int64_t libraries = for_libraries(free);
  int64_t wanted = 0;
  for (const Arena::Entry& entry : entries) wanted += entry.bytes;
  if (wanted <= free - libraries) return;
  std::vector<Arena::Entry> largest = entries;
  std::stable_sort(largest.begin(), largest.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  std::string table;
  for (const Arena::Entry& entry : largest) {
    table += fmt::format("\n  {:>10}  {}", human_bytes(entry.bytes), entry.name);
  }
  throw InputError(fmt::format(
      "out of {} memory before step 1: {} are planned a rank, {} are free, {} of them kept for "
      "libraries. Less is wanted with a "
      "smaller train.micro_batch or train.chunk, train.recompute=norms or block, "
      "train.stash=sqrt or host, "
      "parallel.shard=optimizer, or more parallel.sequence. The plan:{}",
      memory.name, human_bytes(wanted), human_bytes(free), human_bytes(libraries), table));
}

namespace {

int64_t fitting_tokens(const Recipe& recipe, const Model& model, const Machine& machine,
                       const MeshShape& mesh, int64_t free, int64_t most) {
  const int64_t links = mesh.active() > 1 ? kForLinks : 0;
  const int64_t room = std::min(free / 10 * 9, free - links - for_libraries(free));
  const bool exact = machine.leaf > 0;
  const bool shards = recipe.parallel.shard == "optimizer";
  int64_t store = 0;
  for (const Arena::Entry& entry : plan_param_store(model.params(), machine.precision, true, exact,
                                                    shards ? Part{mesh.active(), 0} : Part{})) {
    store += entry.bytes;
  }
  const int64_t share = share_of(recipe.train.batch, mesh.data, mesh.data - 1).count();
  int64_t tokens = most;
  for (; tokens > machine.tokens_a_pass / 8; tokens /= 2) {
    const int64_t rows = plan_micro_batch(recipe, share, mesh.sequence, tokens);
    const SequencePlan plan = plan_sequence(recipe, machine, mesh, rows);
    const auto ranks = make_planned(mesh.sequence, plan.segments.fullest_rank());
    const SequenceRunner runner(model, plan, *ranks, *machine.ops, false);
    int64_t planned = store;
    for (const Arena::Entry& entry : runner.entries()) planned += entry.bytes;
    if (planned <= room) break;
  }
  return tokens;
}

}  // namespace

void fit_passes(const Recipe& recipe, const ModelConfig& config, Machine& machine,
                const MeshShape& mesh, int64_t most) {
  const int64_t free = machine.ops->memory->available();
  if (free < 0 || recipe.train.micro_batch > 0) return;
  const Model model(config);
  Machine without = machine;
  without.keeps_mixes = false;
  const int64_t kept = fitting_tokens(recipe, model, machine, mesh, free, most);
  const int64_t longer = fitting_tokens(recipe, model, without, mesh, free, most);
  machine.keeps_mixes = longer <= kept;
  machine.tokens_a_pass = std::max(kept, longer);
}

void settle_passes(const Recipe& recipe, const ModelConfig& config, Machine& machine,
                   const MeshShape& mesh, int64_t checkpoints_tokens, Communicator& ranks) {
  const bool keeps = machine.leaf == 0 && checkpoints_tokens > 0;
  agree(ranks, [&] {
    fit_passes(recipe, config, machine, mesh,
               keeps ? std::min(checkpoints_tokens, kMostTokensAPass) : kMostTokensAPass);
  });
  machine.tokens_a_pass = ranks.min(machine.tokens_a_pass);
}

int64_t fitted_tokens(const Recipe& recipe, const Machine& machine) {
  const bool fitted = machine.ops->memory->available() >= 0 && recipe.train.micro_batch == 0;
  return fitted ? machine.tokens_a_pass : 0;
}

}  // namespace rwkv
