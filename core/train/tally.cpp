#include "core/train/tally.h"

#include <algorithm>

namespace rwkv {

Tally::Tally(int64_t rows, int64_t tokens, bool graded, int64_t leaf, Communicator& sequence)
    : rows_(rows),
      tokens_(tokens),
      leaf_(leaf),
      sequence_(sequence),
      best_(graded ? static_cast<size_t>(rows * tokens) : 0) {}

SequenceRunner::Visit Tally::visit(Totals& totals) {
  std::fill(best_.begin(), best_.end(), -1);
  return [this, &totals](const SequenceRunner::Result& result) { add(result, totals); };
}

void Tally::add(const SequenceRunner::Result& result, Totals& totals) {
  totals.add(result.loss, result.weight, leaf_);
  if (!graded()) return;
  const Segment& segment = result.segment;
  const int64_t run = segment.tokens();
  for (int64_t b = 0; b < rows_; ++b) {
    const int32_t* from = result.best.as<int32_t>() + b * run + segment.begin - segment.run_begin;
    std::copy_n(from, segment.end - segment.begin,
                best_.begin() + static_cast<std::ptrdiff_t>(b * tokens_ + segment.begin));
  }
}

Tensor Tally::predictions() {
  const Tensor best = view_of(best_.data(), {rows_, tokens_});
  Stream stream;
  if (sequence_.size() > 1) sequence_.all_reduce(best, Reduce::kMax, stream)->wait();
  return best;
}

}  // namespace rwkv
