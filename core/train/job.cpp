#include "core/train/job.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>

namespace rwkv {

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

double cores_a_rank(const Recipe& recipe, int64_t cores, int local_ranks) {
  const double fair = static_cast<double>(cores) / local_ranks;
  if (recipe.precision == "fp64") return std::min(fair, 1.0);  // the reference kernels
  const int64_t threads = recipe.parallel.threads;
  return threads > 0 ? std::min(fair, static_cast<double>(threads)) : fair;
}

Machine choose_machine(const Recipe& recipe, int local_ranks) {
  Machine machine;
  machine.precision_name = recipe.precision;
  if (recipe.precision == "fp64") {
    machine.ops = &reference_backend();
    machine.precision = {DType::kF64, DType::kF64};
  } else {
    machine.ops = &cpu_backend();
    machine.precision = {DType::kF32, DType::kF32};
    if (recipe.precision == "bf16" && machine.ops->bf16) {
      machine.precision.compute = DType::kBF16;
    } else if (recipe.precision != "fp32") {
      machine.note = fmt::format("precision {}: this CPU has no {} arithmetic, computing in fp32",
                                 recipe.precision, recipe.precision);
      machine.precision_name = "fp32";
    }
  }
  const auto online = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  const int fair = std::max(1, online / std::max(1, local_ranks));
  machine.threads = recipe.parallel.threads > 0 ? static_cast<int>(recipe.parallel.threads)
                                                : std::min(available_cores(), fair);
  if (recipe.precision == "fp64") machine.threads = 1;  // the reference kernels run on one thread
  // Where segments do not meet as one sequence does, no other layout could have the same bits.
  const bool bits = recipe.train.overlap == 0 && recipe.train.gradient == "exact" &&
                    recipe.train.handoff == "state";
  const bool exact =
      recipe.parallel.reduction == "exact" || (recipe.parallel.reduction == "auto" && bits);
  machine.leaf = exact ? recipe.parallel.leaf : 0;
  machine.tile = exact ? std::gcd(recipe.parallel.tile, recipe.parallel.leaf) : 0;
  machine.numerics =
      fmt::format("{} {} {} {} ({})", machine.ops->name, machine.ops->isa, machine.precision_name,
                  exact ? fmt::format("exact leaf {} tile {}", machine.leaf, machine.tile) : "fast",
                  machine.ops->build);
  return machine;
}

}  // namespace rwkv
