#include "core/train/job.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <sstream>

#include "kernels/cuda_library.h"
#include "parallel/agree.h"

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

namespace {

// Elements of a GPU's work that run side by side where an op wants memory for each.
constexpr int kDeviceThreads = 256;
constexpr int64_t kDeviceTokens = 16384;
constexpr int64_t kDeviceScratch = int64_t{128} << 20;

void choose_gpu(Machine& machine, const Recipe& recipe, int device) {
  const CudaLibrary& cuda = cuda_library();
  const ParallelConfig& parallel = recipe.parallel;
  machine.link = {parallel.link, device, parallel.share_gpu, parallel.timeout};
  cuda.select(machine.link.device);
  machine.tokens_a_pass = kDeviceTokens;
  machine.ops = cuda.backend;
  machine.scratch = std::make_shared<const Buffer>(kDeviceScratch, *machine.ops->memory);
}

// Types that the backend computes in for what the recipe asks.
void choose_precision(Machine& machine, const std::string& wanted) {
  const Backend& ops = *machine.ops;
  const bool has = wanted == "bf16" ? ops.bf16 : wanted == "fp16" ? ops.fp16 : true;
  const std::string taken = has ? wanted : ops.fp16 ? "fp16" : "fp32";
  machine.precision = {DType::kF32, DType::kF32};
  if (taken == "bf16") machine.precision.compute = DType::kBF16;
  if (taken == "fp16") machine.precision.compute = DType::kF16;
  machine.scales_loss = taken == "fp16";
  machine.precision_name = taken;
  if (has) return;
  machine.note = fmt::format("precision {}: this {} has no {} arithmetic, computing in {}", wanted,
                             machine.link.device < 0 ? "CPU" : "GPU", wanted,
                             taken == "fp16" ? "fp16 with loss scaling" : taken);
}

std::string numerics_of(const Machine& machine) {
  const std::string reduction =
      machine.leaf == 0 ? "fast" : fmt::format("exact leaf {} tile {}", machine.leaf, machine.tile);
  const std::string device = machine.link.device < 0 ? "" : cuda_library().device + ", ";
  return fmt::format("{} {} {} {} ({}{})", machine.ops->name, machine.ops->isa,
                     machine.precision_name, reduction, device, machine.ops->build);
}

}  // namespace

Stream Machine::stream() const {
  if (scratch == nullptr) return {.threads = threads};
  return {.threads = threads, .scratch = scratch->data(), .scratch_bytes = scratch->bytes()};
}

Machine choose_machine(const Recipe& recipe, const Seat& seat) {
  Machine machine;
  machine.precision_name = recipe.precision;
  const auto online = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  const int fair = std::max(1, online / std::max(1, seat.place.size));
  machine.cores = recipe.parallel.threads > 0 ? static_cast<int>(recipe.parallel.threads)
                                              : std::min(available_cores(), fair);
  machine.threads = machine.cores;
  if (wants_gpu(recipe)) {
    choose_gpu(machine, recipe, seat.device);
    machine.threads = kDeviceThreads;
    choose_precision(machine, recipe.precision);
  } else if (recipe.precision == "fp64") {
    machine.ops = &reference_backend();
    machine.precision = {DType::kF64, DType::kF64};
    machine.threads = 1;  // the reference kernels run on one thread
  } else {
    machine.ops = &cpu_backend();
    choose_precision(machine, recipe.precision);
  }
  const bool exact = recipe.parallel.reduction == "exact" ||
                     (recipe.parallel.reduction == "auto" && keeps_sequence_whole(recipe.train) &&
                      machine.link.device < 0);
  machine.leaf = exact ? recipe.parallel.leaf : 0;
  machine.tile = exact ? std::gcd(recipe.parallel.tile, recipe.parallel.leaf) : 0;
  machine.numerics = numerics_of(machine);
  return machine;
}

void require_kernels(const Backend& ops, const ModelConfig& model) {
  if (ops.check_sizes != nullptr) ops.check_sizes(model.width, model.head_size);
}

std::string first_common(const std::vector<std::string>& lists) {
  std::istringstream best(lists.front());
  for (std::string word; best >> word;) {
    const bool all = std::ranges::all_of(lists, [&](const std::string& l) {
      return (" " + l + " ").find(" " + word + " ") != std::string::npos;
    });
    if (all) return word;
  }
  return "";
}

void require_same(Communicator& ranks, uint64_t value, const std::string& otherwise) {
  const auto own = static_cast<int64_t>(value);
  if (ranks.min(own) != ranks.max(own)) throw AgreedError(otherwise, ExitCode::kBadInput);
}

void settle_alike(Communicator& ranks, Machine& machine) {
  const std::string own = fmt::format("{} in {}", machine.ops->name, machine.precision_name);
  const std::string first = ranks.broadcast(own, 0);
  agree(ranks, [&] {
    if (own == first) return;
    throw InputError(fmt::format(
        "rank {} would compute with {}, rank 0 with {}: set parallel.device and precision "
        "to what every host has",
        ranks.rank(), own, first));
  });
  if (machine.ops->name != cpu_backend().name) return;
  std::string isas;
  for (const std::string_view isa : cpu_isas()) isas += std::string(isa) + " ";
  const std::string common = first_common(ranks.gather(isas));
  if (common == machine.ops->isa) return;
  machine.ops = &cpu_backend(common);
  machine.numerics = numerics_of(machine);
}

}  // namespace rwkv
