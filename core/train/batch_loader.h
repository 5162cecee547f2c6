// A rank's samples of a step, in memory that is planned once.
#pragma once

#include <vector>

#include "core/data/source.h"
#include "core/model/model.h"
#include "core/train/totals.h"

namespace rwkv {

class BatchLoader {
 public:
  // Room for `samples` samples of `context` tokens; with `resets`, batches say where documents
  // start.
  BatchLoader(const SampleSource&, int64_t samples, int64_t context, bool resets = false);
  // Of the host's memory that one takes, about.
  static int64_t bytes(int64_t samples, int64_t context, bool resets) {
    return samples * context * (resets ? 20 : 16);
  }

  // Reads samples into slots 0, 1, ...; adds the true nats of their targets (NaN: not known).
  void load(const std::vector<int64_t>& samples, Totals& totals);
  // Slots [first, first + count) as a micro-batch of `rows` samples: those behind the last slot are
  // token 0 with weight zero.
  Batch batch(int64_t first, int64_t rows) const;
  double weight() const;  // sum over the loaded samples

  // Grades the predictions of slots [first, first + count): best (rows, T). Adds to asked and
  // answered, one number a skill.
  void grade(int64_t first, int64_t count, const Tensor& best, std::vector<int64_t>& asked,
             std::vector<int64_t>& answered) const;

  // Reads one sample into one slot; returns its nats.
  double read(int64_t slot, int64_t sample);
  // Weight zero from this slot on.
  void blank(int64_t from_slot);

 private:
  std::span<int32_t> starts_of(int64_t slot);
  int64_t grade_question(int64_t row, int64_t at, const int32_t* best, bool* right) const;

  const SampleSource& source_;
  int64_t samples_, context_, loaded_ = 0;
  std::vector<int32_t> row_;  // context + 1: a sample as the source gives it
  std::vector<int32_t> tokens_, targets_, question_, skill_;
  std::vector<int32_t> starts_;  // empty: no resets
  std::vector<float> weight_;
};

}  // namespace rwkv
