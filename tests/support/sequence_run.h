// Random sequences with document starts and a state that enters, through the model: whole, without
// any exchange, or in segments over ranks that are threads.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/model/sequence_runner.h"
#include "tests/support/model_run.h"

namespace rwkv::test {

// Two sequences.
struct SequenceCase {
  ModelConfig config;
  int64_t tokens = 0;
  std::vector<int64_t> starts;
  bool enters = true;           // else everything starts from zero
  bool starts_in_both = false;  // else in the first sequence alone

  static constexpr int64_t kBatch = 2;
};

struct SequenceLayout {
  int ranks = 1;
  int64_t chunk = 0, overlap = 0;
  std::string exchange = "gather", stash = "all";
  int64_t tile = 0;
  Handing handing = {};
};
std::string to_string(const SequenceLayout&);
// Ranks of a node under two_level: the smallest divisor above 1.
int node_of(int ranks);

// Sums over tokens of weight * loss, and what follows from it. Every entry by name:
// parameters' gradients, "entering/<layer>/<i>" (gradients) and "leaving/<layer>/<i>" in the order
// of Block::carries().
struct SequenceResults {
  double loss = 0;
  std::map<std::string, std::vector<double>> tensors;
  std::vector<int64_t> sent, planned;  // bytes between segments, a rank
};

// One forward and backward pass of the whole, without a SequenceRunner.
SequenceResults run_whole(const ModelRun&, const SequenceCase&);
SequenceResults run_in_segments(const ModelRun&, const SequenceCase&, const SequenceLayout&);

// The largest distance of any tensor, and its name; the loss is one of them. all: of all tensors as
// one vector.
struct Worst {
  double distance = 0, all = 0;
  std::string name;
};
Worst compare(const SequenceResults& got, const SequenceResults& want);

}  // namespace rwkv::test
