// How long operations on device tensors take, over two communicators of the same ranks.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/base/memory.h"
#include "parallel/communicator.h"

namespace rwkv::conformance {

// Microseconds of one operation, the mean of several one after another, the slowest rank's.
template <class Begin>
double microseconds(Communicator& comm, const Memory& memory, int64_t bytes, const Begin& begin) {
  const int times = bytes <= (64 << 10) ? 20 : bytes <= (4 << 20) ? 10 : 3;
  Stream stream;
  std::chrono::steady_clock::time_point start;
  for (int i = -2; i < times; ++i) {  // two to warm up
    if (i == 0) {
      memory.wait(stream);
      comm.barrier();
      start = std::chrono::steady_clock::now();
    }
    begin(stream)->wait();
  }
  comm.settle();
  memory.wait(stream);
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  return static_cast<double>(comm.max(static_cast<int64_t>(took.count()))) / 1e3 / times;
}

// `bytes` is the tensor of a sum or a shift, and the whole of a gather. From rank 0. Collective.
inline void print_times(Communicator& nccl, Communicator& staged, const Memory& memory) {
  constexpr int64_t kMost = 256 << 20;
  const int ranks = nccl.size(), rank = nccl.rank();
  const Buffer a(kMost, memory), b(kMost, memory);
  if (rank == 0) std::printf("%10s  %-10s %14s %14s\n", "bytes", "", "nccl us", "staged us");
  const auto print = [&](const char* name, int64_t bytes, const auto& begin) {
    const double fast =
        microseconds(nccl, memory, bytes, [&](Stream& s) { return begin(nccl, s); });
    const double slow =
        microseconds(staged, memory, bytes, [&](Stream& s) { return begin(staged, s); });
    if (rank != 0) return;
    std::printf("%10lld  %-10s %14.1f %14.1f\n", static_cast<long long>(bytes), name, fast, slow);
    std::fflush(stdout);
  };
  for (int64_t bytes = 8; bytes <= kMost;
       bytes = bytes == kMost ? kMost + 1 : std::min(kMost, bytes * 8)) {
    const Tensor out{a.data(), DType::kF32, {bytes / 4}}, in{b.data(), DType::kF32, {bytes / 4}};
    print("all_reduce", bytes,
          [&](Communicator& comm, Stream& s) { return comm.all_reduce(out, Reduce::kSum, s); });
    const int64_t part = bytes / ranks;
    const Tensor whole{b.data(), DType::kU8, {part * ranks}};
    const Tensor shard{a.data(), DType::kU8, {part}};
    print("all_gather", bytes,
          [&](Communicator& comm, Stream& s) { return comm.all_gather(shard, whole, s); });
    print("shift", bytes, [&](Communicator& comm, Stream& s) {
      return comm.shift(out, (rank + 1) % ranks, in, (rank + ranks - 1) % ranks, s);
    });
  }
}

}  // namespace rwkv::conformance
