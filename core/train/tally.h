// What the segments of a micro-batch say, put together: losses into totals, predictions into whole
// sequences.
#pragma once

#include <vector>

#include "core/model/sequence_runner.h"
#include "core/train/totals.h"

namespace rwkv {

class Tally {
 public:
  // rows x tokens predictions, when `graded`; losses are added up in leaves (0: as they come).
  Tally(int64_t rows, int64_t tokens, bool graded, int64_t leaf, Communicator& sequence);

  bool graded() const { return !best_.empty(); }
  // To be given to a SequenceRunner: adds to `totals`, which must outlive the run.
  SequenceRunner::Visit visit(Totals& totals);
  // The most likely token everywhere, (rows, tokens) i32. After all segments have run; collective
  // over the sequence.
  Tensor predictions();

 private:
  void add(const SequenceRunner::Result&, Totals&);

  int64_t rows_, tokens_, leaf_;
  Communicator& sequence_;
  std::vector<int32_t> best_;
};

}  // namespace rwkv
