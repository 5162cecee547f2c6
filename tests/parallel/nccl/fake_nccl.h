// NCCL between ranks that are threads, on fake streams (fake_cuda.h). Every call says first that it
// is in progress, and starts after a few polls.
#pragma once

#include <string>
#include <vector>

namespace rwkv::fake {

// What the next calls do.
enum class Mood {
  kWell,
  kNeverStarts,  // stay in progress
  kNeverEnds,    // start, and keep their stream busy until their communicator is aborted
  kFails,        // report a remote error when polled
};
void set_nccl_mood(Mood);

// Communicators that ended since the last call: "finalized", "destroyed", "aborted", in order.
std::vector<std::string> take_nccl_ends();

}  // namespace rwkv::fake
