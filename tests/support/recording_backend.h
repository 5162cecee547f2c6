// The CPU's kernels as a device that can record: what is issued on a recording stream is kept, and
// computed when it is run.
#pragma once

#include "kernels/backend.h"

namespace rwkv::test {

const Backend& recording_backend();

// Of this thread.
struct RecordingCounts {
  int direct = 0;        // ops that ran at once
  int recorded = 0;      // recordings made
  int runs = 0;          // of recordings
  int alive = 0;         // recordings not released
  bool refuses = false;  // the next op that is recorded throws
};
RecordingCounts& recording_counts();

}  // namespace rwkv::test
