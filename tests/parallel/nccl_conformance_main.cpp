// NCCL and the staged communicator on tensors of the GPU, under mpirun.
//   nccl_conformance [--share-gpu] [--time] [--timeout SECONDS]
// --share-gpu: all ranks on the first GPU. --time: how long operations take, in place of the
// checks. A line per check and a summary from rank 0. Ends with 77 where there is no GPU or no
// NCCL.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "kernels/cuda_library.h"
#include "parallel/nccl_library.h"
#include "tests/parallel/conformance.h"
#include "tests/parallel/nccl_timing.h"
#include "tests/parallel/through_device.h"

namespace {

using namespace rwkv;

constexpr int kSkipped = 77;

struct Options {
  NcclSettings nccl{.timeout_seconds = 60};
  bool time = false;
};

Options read_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--share-gpu") {
      options.nccl.share_gpu = true;
    } else if (word == "--time") {
      options.time = true;
    } else if (word == "--timeout" && i + 1 < argc) {
      options.nccl.timeout_seconds = std::stod(argv[++i]);
    } else {
      throw InputError("unknown option " + word);
    }
  }
  return options;
}

// Empty: all is there, on this rank.
std::string missing(const Options& options, const HostPlace& place) {
  const CudaLibrary& cuda = cuda_library();
  if (cuda.devices == 0) return "no GPU: " + cuda.why;
  if (cuda.backend == nullptr || cuda.backend->memory->host) {
    return "the CUDA backend has no memory of its own";
  }
  if (nccl_library().make == nullptr) return "no NCCL: " + nccl_library().why;
  if (place.size > cuda.devices && !options.nccl.share_gpu) {
    return std::to_string(place.size) + " ranks here and " + std::to_string(cuda.devices) +
           " GPU: --share-gpu";
  }
  return "";
}

class Checks {
 public:
  explicit Checks(Communicator& control) : control_(control) {}

  // run() is collective. After an error of communication nothing more is tried.
  template <class Run>
  void check(const std::string& name, const Run& run) {
    if (stopped_) {
      ++failed_;
      return;
    }
    bool lost = false;
    std::string fault;
    try {
      run();
    } catch (const CommError& error) {
      lost = true;
      fault = error.what();
    } catch (const std::exception& error) {
      fault = error.what();
    }
    if (!fault.empty()) {
      std::fprintf(stderr, "rank %d: %s: %s\n", control_.rank(), name.c_str(), fault.c_str());
    }
    const bool bad = control_.max(fault.empty() ? 0 : 1) != 0;
    stopped_ = control_.max(lost ? 1 : 0) != 0;
    ++(bad ? failed_ : passed_);
    if (control_.rank() != 0) return;
    std::printf("%s %s\n", bad ? "FAILED" : "ok    ", name.c_str());
    std::fflush(stdout);
  }

  int finish() const {
    if (control_.rank() == 0) {
      std::printf("nccl conformance: %d passed, %d failed\n", passed_, failed_);
    }
    return failed_ == 0 ? 0 : 1;
  }

 private:
  Communicator& control_;
  int passed_ = 0, failed_ = 0;
  bool stopped_ = false;
};

// A tensor on the device, filled with one rank's numbers.
class DeviceTensor {
 public:
  DeviceTensor(const Memory& memory, DType type, int64_t count, int rank)
      : memory_(memory), buffer_(count * bytes_of(type), memory), type_(type), count_(count) {
    std::vector<std::byte> host(static_cast<size_t>(count * bytes_of(type)));
    for (int64_t i = 0; i < count; ++i) put(host, i, conformance::mixed(rank, i));
    if (!host.empty()) memory.copy(Stream{}, buffer_.data(), host.data(), bytes());
  }
  Tensor view() const { return {buffer_.data(), type_, {count_}}; }
  std::vector<std::byte> read() const {
    std::vector<std::byte> host(static_cast<size_t>(bytes()));
    if (!host.empty()) memory_.copy(Stream{}, host.data(), buffer_.data(), bytes());
    return host;
  }

 private:
  int64_t bytes() const { return count_ * bytes_of(type_); }

  // Numbers of many magnitudes in float types, any bits in others.
  void put(std::vector<std::byte>& host, int64_t i, uint64_t bits) const {
    const double real = std::ldexp(static_cast<double>(bits >> 11) * 0x1p-53 - 0.5,
                                   static_cast<int>(bits % 40) - 20);
    const auto single = static_cast<float>(real);
    const void* from = type_ == DType::kF64   ? static_cast<const void*>(&real)
                       : type_ == DType::kF32 ? static_cast<const void*>(&single)
                                              : static_cast<const void*>(&bits);
    const auto width = static_cast<size_t>(bytes_of(type_));
    std::memcpy(host.data() + static_cast<size_t>(i) * width, from, std::min(width, sizeof bits));
  }

  const Memory& memory_;
  Buffer buffer_;
  DType type_;
  int64_t count_;
};

template <class T>
void expect_near(const std::vector<std::byte>& a, const std::vector<std::byte>& b, int ranks) {
  const double unit = sizeof(T) == 8 ? 0x1p-52 : 0x1p-23;
  for (size_t i = 0; i < a.size(); i += sizeof(T)) {
    T x, y;
    std::memcpy(&x, a.data() + i, sizeof x);
    std::memcpy(&y, b.data() + i, sizeof y);
    // Terms are below 2^19 each, so that is what roundings scale with.
    conformance::expect(
        std::abs(static_cast<double>(x) - static_cast<double>(y)) <= unit * 0x1p19 * ranks * ranks,
        "sums at element " + std::to_string(i / sizeof(T)));
  }
}

// The same operation on both communicators, from the same tensors.
class SideBySide {
 public:
  SideBySide(Communicator& nccl, Communicator& staged, const Memory& memory)
      : nccl_(nccl), staged_(staged), memory_(memory) {}

  void all_reduce(DType type, Reduce how) const {
    for (const int64_t count : conformance::odd_sizes(type)) {
      const auto reduced = [&](Communicator& comm) {
        const DeviceTensor t(memory_, type, count, comm.rank());
        comm.all_reduce(t.view(), how, stream())->wait();
        return t.read();
      };
      const auto got = reduced(nccl_), want = reduced(staged_);
      const bool rounds = how == Reduce::kSum && nccl_.size() > 2;
      if (rounds && type == DType::kF64) {
        expect_near<double>(got, want, nccl_.size());
      } else if (rounds && type == DType::kF32) {
        expect_near<float>(got, want, nccl_.size());
      } else {
        expect_same(got, want, type, count);
      }
    }
  }

  void all_gather(DType type, bool in_place) const {
    for (const int64_t count : conformance::odd_sizes(type)) {
      const auto gathered = [&](Communicator& comm) {
        const DeviceTensor shard(memory_, type, count, comm.rank());
        const DeviceTensor whole(memory_, type, count * comm.size(), 100 + comm.rank());
        ConstTensor source = shard.view();
        if (in_place) source = whole.view().rows(comm.rank() * count, (comm.rank() + 1) * count);
        comm.all_gather(source, whole.view(), stream())->wait();
        return whole.read();
      };
      expect_same(gathered(nccl_), gathered(staged_), type, count);
    }
  }

  void broadcast(DType type, int root) const {
    for (const int64_t count : conformance::odd_sizes(type)) {
      const auto sent = [&](Communicator& comm) {
        const DeviceTensor t(memory_, type, count, comm.rank());
        comm.broadcast(t.view(), root, stream())->wait();
        return t.read();
      };
      expect_same(sent(nccl_), sent(staged_), type, count);
    }
  }

  void shift(DType type, int step) const {
    for (const int64_t count : conformance::odd_sizes(type)) {
      const auto shifted = [&](Communicator& comm) {
        const DeviceTensor out(memory_, type, count, comm.rank());
        const DeviceTensor in(memory_, type, count, 100 + comm.rank());
        comm.shift(out.view(), conformance::wrapped(comm, comm.rank() + step), in.view(),
                   conformance::wrapped(comm, comm.rank() - step), stream())
            ->wait();
        return in.read();
      };
      expect_same(shifted(nccl_), shifted(staged_), type, count);
    }
  }

  // Work of the stream before and after an operation, with no wait of the host in between.
  void follows_the_stream() const {
    const int64_t count = 1000003;
    DeviceTensor a(memory_, DType::kI64, count, nccl_.rank());
    const DeviceTensor b(memory_, DType::kI64, count, nccl_.rank()),
        c(memory_, DType::kI64, count, 0), twin(memory_, DType::kI64, count, nccl_.rank());
    staged_.all_reduce(twin.view(), Reduce::kSum, stream())->wait();
    for (int i = 0; i < 10; ++i) {
      zero(memory_, stream(), a.view());
      copy(memory_, stream(), a.view(), b.view());
      const auto ticket = nccl_.all_reduce(a.view(), Reduce::kSum, stream());
      ticket->wait();
      copy(memory_, stream(), c.view(), a.view());
      zero(memory_, stream(), a.view());
      expect_same(c.read(), twin.read(), DType::kI64, count);
    }
    nccl_.settle();
  }

 private:
  static Stream& stream() {
    static Stream only;
    return only;
  }
  static void expect_same(const std::vector<std::byte>& got, const std::vector<std::byte>& want,
                          DType type, int64_t count) {
    conformance::expect(got == want, "bits of " + conformance::label(type, count));
  }

  Communicator& nccl_;
  Communicator& staged_;
  const Memory& memory_;
};

void compare(Checks& checks, const SideBySide& both, int ranks) {
  constexpr const char* kHow[] = {"Sum", "Max", "Min"};
  for (const DType type : {DType::kF64, DType::kF32, DType::kI64, DType::kI32}) {
    for (const Reduce how : {Reduce::kSum, Reduce::kMax, Reduce::kMin}) {
      checks.check("beside staged: AllReduce" + std::string(kHow[static_cast<int>(how)]) + " of " +
                       std::string(name_of(type)),
                   [&] { both.all_reduce(type, how); });
    }
  }
  for (const DType type : {DType::kF32, DType::kBF16, DType::kU8}) {
    const std::string of = " of " + std::string(name_of(type));
    checks.check("beside staged: AllGather" + of, [&] { both.all_gather(type, false); });
    checks.check("beside staged: AllGatherInPlace" + of, [&] { both.all_gather(type, true); });
    checks.check("beside staged: Broadcast" + of, [&] { both.broadcast(type, ranks - 1); });
    for (const int step : {0, 1, -1}) {
      checks.check("beside staged: Shift by " + std::to_string(step) + of,
                   [&] { both.shift(type, step); });
    }
  }
  checks.check("follows the stream", [&] { both.follows_the_stream(); });
}

int run(Communicator& control, const Options& options) {
  const Memory& memory = *cuda_library().backend->memory;
  const auto nccl = make_nccl(control, options.nccl);
  const auto staged = make_staged(control, memory);
  if (control.rank() == 0) {
    std::printf("NCCL %s, %d ranks%s, %s\n", nccl_library().version.c_str(), control.size(),
                options.nccl.share_gpu ? " on one GPU" : "", cuda_library().device.c_str());
  }
  if (options.time) {
    conformance::print_times(*nccl, *staged, memory);
    return 0;
  }
  Checks checks(control);
  compare(checks, SideBySide(*nccl, *staged, memory), control.size());
  for (Communicator* comm : {staged.get(), nccl.get()}) {
    conformance::ThroughDevice device(*comm, memory);
    for (const conformance::Check& check : conformance::all_checks()) {
      checks.check(comm->name() + ": " + check.name, [&] { check.run(device); });
    }
  }
  return checks.finish();
}

int start(int argc, char** argv) {
  Options options = read_options(argc, argv);
  const auto control = make_mpi();
  const HostPlace place = host_place(*control);
  const std::string lack = missing(options, place);
  const int64_t first = control->min(lack.empty() ? control->size() : control->rank());
  if (first < control->size()) {
    const std::string why = control->broadcast(lack, static_cast<int>(first));
    if (control->rank() == 0) std::printf("nccl conformance: skipped: %s\n", why.c_str());
    return kSkipped;
  }
  options.nccl.device = options.nccl.share_gpu ? 0 : place.rank;
  const int code = run(*control, options);
  if (code != 0) control->abort(code);  // a rank may be stuck
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return start(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "nccl_conformance: %s\n", error.what());
    return 1;
  }
}
