// Loss and skills over held-out samples.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/plan/mesh_shape.h"
#include "core/train/batch_loader.h"
#include "core/train/tally.h"
#include "core/train/totals.h"

namespace rwkv {

// Samples that a generator's evaluation takes when the recipe names no number: over 2,000
// questions of each skill at context 256.
inline constexpr int64_t kGeneratorEvalSamples = 2560;

class Evaluator {
 public:
  // A pass takes `micro_batch` samples. `resets`: documents start from the initial state.
  Evaluator(const SampleSource&, int64_t micro_batch, int64_t context, bool resets = false);

  // This rank's part of the work. The runner may be a training one.
  struct Place {
    SequenceRunner& runner;
    Tally& tally;
    Share share;         // of the samples: its data group's
    bool leads = false;  // it is sequence rank 0
  };
  // Each of the samples once, in order; every rank gets the totals. Collective over `all`.
  // `visit` (may be empty) sees each segment: the first sample, number of samples, its results.
  // logits: as SequenceRunner::forward().
  using Visit = std::function<void(int64_t first, int64_t rows, const SequenceRunner::Result&)>;
  Totals run(const Pass&, const ParamStore&, const Place&, Communicator& all,
             const Visit& visit = {}, Tensor logits = {});

 private:
  void read(const Share&, int64_t first, bool leads, Totals&);

  const SampleSource& source_;
  int64_t micro_batch_;
  BatchLoader loader_;
};

// How many samples an evaluation takes: eval.batches of train.batch, or all; generators, which have
// no end, kGeneratorEvalSamples.
int64_t eval_samples(const Recipe&, const SampleSource&);

// How far the mean loss is above the entropy floor, in percent of ln V - floor. Only where the
// source knows the floor.
double percent_above_floor(const Totals&, int64_t vocab);

// "where 0.9541 of 2403 questions (chance 0.25)", a line for each skill that was asked.
std::vector<std::string> skill_lines(const Totals&, const SampleSource&);

}  // namespace rwkv
