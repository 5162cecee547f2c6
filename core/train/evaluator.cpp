#include "core/train/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rwkv {

Evaluator::Evaluator(const SampleSource& source, int64_t micro_batch, int64_t context, bool resets)
    : source_(source), micro_batch_(micro_batch), loader_(source, micro_batch, context, resets) {}

// Samples first ... of the share into a micro-batch.
void Evaluator::read(const Share& share, int64_t first, bool leads, Totals& totals) {
  const int64_t rows = std::min(micro_batch_, share.end - first);
  for (int64_t i = 0; i < rows; ++i) {
    const double nats = loader_.read(i, first + i);
    if (leads) totals.add_nats(nats);
  }
  loader_.blank(rows);
}

Totals Evaluator::run(const Pass& pass, const ParamStore& store, const Place& place,
                      Communicator& all, const Visit& visit, Tensor logits) {
  Totals totals(source_.skills().size());
  const Share& share = place.share;
  for (int64_t first = share.begin; first < share.end; first += micro_batch_) {
    const int64_t rows = std::min(micro_batch_, share.end - first);
    read(share, first, place.leads, totals);
    const SequenceRunner::Visit add = place.tally.visit(totals);
    const auto both = [&](const SequenceRunner::Result& result) {
      add(result);
      if (visit) visit(first, rows, result);
    };
    place.runner.forward(pass, store, loader_.batch(0, micro_batch_), both, logits);
    if (!place.tally.graded()) continue;
    const Tensor best = place.tally.predictions();
    if (place.leads) loader_.grade(0, rows, best, totals.asked, totals.answered);
  }
  totals.reduce(all);
  return totals;
}

int64_t eval_samples(const Recipe& recipe, const SampleSource& source) {
  const bool endless = source.size() == std::numeric_limits<int64_t>::max();
  const int64_t batch = std::max<int64_t>(1, recipe.train.batch), batches = recipe.eval.batches;
  if (batches > 0 && batches <= source.size() / batch) return batches * batch;
  if (batches > 0) return source.size();
  return endless ? kGeneratorEvalSamples : source.size();
}

double percent_above_floor(const Totals& totals, int64_t vocab) {
  const double floor = totals.floor();
  return 100 * (totals.mean_loss() - floor) / (std::log(static_cast<double>(vocab)) - floor);
}

std::vector<std::string> skill_lines(const Totals& totals, const SampleSource& source) {
  const std::vector<std::string> names = source.skills();
  const std::vector<double> chance = source.chance();
  std::vector<std::string> lines;
  for (size_t i = 0; i < names.size(); ++i) {
    if (totals.asked[i] == 0) continue;  // the context is too short for a question
    lines.push_back(fmt::format("{} {:.4f} of {} questions (chance {:.2f})", names[i],
                                totals.answered_share(i), totals.asked[i], chance[i]));
  }
  return lines;
}

}  // namespace rwkv
