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
  // A pass takes `micro_batch` samples. The workspace may be a training one.
  Evaluator(const Model&, const SampleSource&, int64_t micro_batch, int64_t context);

  // Samples [0, count), shared out over the ranks in order; every rank gets the totals. Collective.
  // `visit` (may be empty) sees each micro-batch: first sample, number of samples, the workspace.
  // logits: (micro_batch, T, V) acc to be filled, or empty.
  using Visit = std::function<void(int64_t first, int64_t count)>;
  Totals run(const Pass&, const ParamStore&, Workspace&, int64_t count, Communicator&,
             Tensor logits = {}, const Visit& visit = {});
  // In segments: `share` of the samples is this rank's data group's; sequence rank 0 of each
  // `leads` it. Collective over `all`.
  Totals run(const Pass&, const ParamStore&, SequenceRunner&, Tally&, const Share& share,
             bool leads, Communicator& all);

 private:
  void read(const Share&, int64_t first, bool leads, Totals&);

  const Model& model_;
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
