// What tests of the MPI communicator need beyond communicator.h.
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/communicator.h"

namespace rwkv {

// The most bytes of one MPI call: MPI counts in int, and some of its algorithms multiply in int
// too.
inline constexpr int64_t kMpiMaxBytes = int64_t{1} << 30;

// make_mpi() with another limit, a positive multiple of 8, so that small tensors take the way of
// big ones. The same on all ranks.
std::unique_ptr<Communicator> make_mpi(int64_t max_bytes);

}  // namespace rwkv
