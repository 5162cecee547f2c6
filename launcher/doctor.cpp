// rwkv-dist doctor: what this machine is to the program, ready to paste into a report.
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <vector>

#include "core/train/console.h"
#include "core/train/job.h"
#include "kernels/cuda_library.h"
#include "launcher/command.h"
#include "parallel/nccl_library.h"

namespace rwkv {
namespace {

// Seconds of the best of a few sums over all ranks of `count` floats.
double time_all_reduce(Communicator& world, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count), 1.0f);
  Stream stream;
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    world.barrier();
    const auto start = std::chrono::steady_clock::now();
    world.all_reduce(view_of(values.data(), {count}), Reduce::kMax, stream)->wait();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

// GFLOP/s of a (512, 512) x (512, 512) product on one thread.
double time_product(DType dtype) {
  constexpr int64_t kN = 512;
  Buffer a(kN * kN * 4), b(kN * kN * 4), c(kN * kN * 4);
  const Shape square{kN, kN};
  const Matmul op{.a = {a.data(), dtype, square},
                  .b = {b.data(), dtype, square},
                  .c = {c.data(), dtype, square},
                  .trans_b = true};
  double best = 1e9;
  for (int i = 0; i < 6; ++i) {
    const auto start = std::chrono::steady_clock::now();
    cpu_backend().matmul(Stream{}, op);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return 2.0 * kN * kN * kN / best / 1e9;
}

std::string environment_text() {
  std::string text;
  for (const char* name : {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMPI_COMM_WORLD_SIZE",
                           "SLURM_JOB_ID", "SLURM_NTASKS", "CUDA_VISIBLE_DEVICES"}) {
    if (const char* value = std::getenv(name)) text += fmt::format(" {}={}", name, value);
  }
  return text.empty() ? " none of interest" : text;
}

ExitCode doctor(Context& context) {
  Communicator& world = context.world;
  const HostPlace place = host_place(world);
  constexpr int64_t kCount = 1 << 18;
  const double seconds = time_all_reduce(world, kCount);
  if (!context.root()) return ExitCode::kDone;
  utsname system{};
  uname(&system);
  std::string isas;
  for (std::string_view isa : cpu_isas()) isas += fmt::format(" {}", isa);
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  std::string text = program_line() + "\n";
  text += fmt::format("system   {} {} {}\n", system.sysname, system.release, system.machine);
  text += fmt::format("cores    {} for this process, memory {}\n", available_cores(),
                      human_bytes(memory));
  text += fmt::format("cpu code{}; bf16 products: {}\n", isas,
                      cpu_backend().bf16 ? "yes" : "no, bf16 runs in fp32");
  text += fmt::format("product  512 x 512 x 512, one thread: {:.0f} GFLOP/s fp32",
                      time_product(DType::kF32));
  if (cpu_backend().bf16) text += fmt::format(", {:.0f} bf16", time_product(DType::kBF16));
  text += fmt::format("\nranks    {} ({}), {} on this host; all-reduce of 1 MiB: {:.3f} ms\n",
                      world.size(), world.name(), place.size, seconds * 1e3);
  const CudaLibrary& cuda = cuda_library();
  text += cuda.devices > 0
              ? fmt::format("gpu      {} of {}: training runs there\n", cuda.devices, cuda.device)
              : fmt::format("gpu      {}: the CPU backend trains\n", cuda.why);
  const NcclLibrary& nccl = nccl_library();
  text += nccl.make != nullptr
              ? fmt::format("nccl     {}\n", nccl.version)
              : fmt::format("nccl     {}: tensors of GPUs travel by way of the hosts\n", nccl.why);
  text += "setting " + environment_text() + "\n";
  std::fputs(text.c_str(), stdout);
  return ExitCode::kDone;
}

}  // namespace

void add_doctor(CLI::App& app, CommandAction& chosen) {
  app.add_subcommand("doctor", "facts of this build and machine, to paste into a report")
      ->callback([&chosen] { chosen = doctor; });
}

}  // namespace rwkv
