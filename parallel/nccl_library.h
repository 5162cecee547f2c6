// librwkv_nccl.so, opened when it is first asked for: the program itself needs neither NCCL nor a
// driver, and goes on without them.
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace rwkv {

struct NcclSettings {
  int device = 0;                // CUDA's number of this rank's GPU in this process
  double timeout_seconds = 600;  // for one operation, and for making a communicator
  // For tests: several ranks, each a process, on one GPU. Slow; NVIDIA does not support it. The
  // same on all ranks.
  bool share_gpu = false;
};

struct NcclLibrary {
  // What the library exports, in C; throws. nullptr: there is none, and `why` says so in a few
  // words.
  Communicator* (*make)(Communicator& control, const NcclSettings&) = nullptr;
  std::string version;  // "2.28.9"
  std::string why;
};

// Thread-safe; the library stays open to the end of the process.
const NcclLibrary& nccl_library();

// The ranks of `control`, which works on the host and must outlive it, each with a GPU of its own,
// for tensors of the CUDA backend's memory. Collective. One thread issues operations, on all ranks
// in the same order, over all communicators made here; abort() alone may come from another one.
//
// Operations of one communicator run in the order of their calls, on a stream of its own, after
// what the caller's stream was given before. Shifts that MPI would let meet in any order can
// therefore block each other here: between any ranks they must be called in an order that works
// with each call finished before the next. Sizes that do not match are not noticed.
//
// wait() makes the caller's stream wait; it blocks the host only until all partners of an operation
// have connected, at most the timeout. An operation that fails later shows as a CommError of
// settle() or of a later call or ticket, one that does not end in time as a HangError. After a
// CommError the communicator is good for abort() and destruction alone. barrier(), host(), and
// numbers and text go over `control`.
//
// Sets variables of NCCL's environment before its first call, those that the user has not set.
// Throws the same AgreedError on all ranks where one cannot begin, CommError without the library.
std::unique_ptr<Communicator> make_nccl(Communicator& control, const NcclSettings&);

}  // namespace rwkv
