#include "core/train/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rwkv {

Evaluator::Evaluator(const Model& model, const SampleSource& source, int64_t micro_batch,
                     int64_t context)
    : model_(model),
      source_(source),
      micro_batch_(micro_batch),
      loader_(source, micro_batch, context) {}

// Samples first ... of the share into a micro-batch.
void Evaluator::read(const Share& share, int64_t first, bool leads, Totals& totals) {
  const int64_t rows = std::min(micro_batch_, share.end - first);
  for (int64_t i = 0; i < rows; ++i) {
    const double nats = loader_.read(i, first + i);
    if (leads) totals.add_nats(nats);
  }
  loader_.blank(rows);
}

Totals Evaluator::run(const Pass& pass, const ParamStore& store, Workspace& ws, int64_t count,
                      Communicator& comm, Tensor logits, const Visit& visit) {
  Totals totals(source_.skills().size());
  const Share share = share_of(count, comm.size(), comm.rank());
  for (int64_t first = share.begin; first < share.end; first += micro_batch_) {
    const int64_t rows = std::min(micro_batch_, share.end - first);
    read(share, first, true, totals);
    const Batch batch = loader_.batch(0, micro_batch_);
    model_.reset(ws);
    model_.forward(pass, store, ws, batch.tokens);
    model_.loss(pass, store, ws, batch, logits);
    totals.add(ws.loss, batch.weight, pass.leaf);
    if (!totals.asked.empty()) loader_.grade(0, rows, ws.best, totals.asked, totals.answered);
    if (visit) visit(first, rows);
  }
  totals.reduce(comm);
  return totals;
}

Totals Evaluator::run(const Pass& pass, const ParamStore& store, SequenceRunner& runner,
                      Tally& tally, const Share& share, bool leads, Communicator& all) {
  Totals totals(source_.skills().size());
  for (int64_t first = share.begin; first < share.end; first += micro_batch_) {
    read(share, first, leads, totals);
    runner.forward(pass, store, loader_.batch(0, micro_batch_), tally.visit(totals));
    if (!tally.graded()) continue;
    const Tensor best = tally.predictions();
    const int64_t rows = std::min(micro_batch_, share.end - first);
    if (leads) loader_.grade(0, rows, best, totals.asked, totals.answered);
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
