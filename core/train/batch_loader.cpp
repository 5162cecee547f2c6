#include "core/train/batch_loader.h"

#include <algorithm>

namespace rwkv {

BatchLoader::BatchLoader(const SampleSource& source, int64_t samples, int64_t context, bool resets)
    : source_(source),
      samples_(samples),
      context_(context),
      row_(static_cast<size_t>(context + 1)),
      tokens_(static_cast<size_t>(samples * context)),
      targets_(tokens_.size()),
      question_(tokens_.size(), kUngraded),
      skill_(tokens_.size()),
      starts_(resets ? tokens_.size() : 0),
      weight_(tokens_.size()) {}

void BatchLoader::load(const std::vector<int64_t>& samples, Totals& totals) {
  loaded_ = static_cast<int64_t>(samples.size());
  for (int64_t slot = 0; slot < loaded_; ++slot) {
    totals.add_nats(read(slot, samples[static_cast<size_t>(slot)]));
  }
  blank(loaded_);
}

double BatchLoader::read(int64_t slot, int64_t sample) {
  const auto at = static_cast<size_t>(slot * context_), n = static_cast<size_t>(context_);
  const double nats = source_.read(sample, {.tokens = row_,
                                            .weight = std::span(weight_).subspan(at, n),
                                            .question = std::span(question_).subspan(at, n),
                                            .skill = std::span(skill_).subspan(at, n),
                                            .starts = starts_of(slot)});
  std::copy_n(row_.begin(), n, tokens_.begin() + static_cast<std::ptrdiff_t>(at));
  std::copy_n(row_.begin() + 1, n, targets_.begin() + static_cast<std::ptrdiff_t>(at));
  return nats;
}

void BatchLoader::blank(int64_t from_slot) {
  const auto from = static_cast<std::ptrdiff_t>(from_slot * context_);
  std::fill(tokens_.begin() + from, tokens_.end(), 0);
  std::fill(targets_.begin() + from, targets_.end(), 0);
  std::fill(weight_.begin() + from, weight_.end(), 0.0f);
  std::fill(question_.begin() + from, question_.end(), kUngraded);
  if (!starts_.empty()) std::fill(starts_.begin() + from, starts_.end(), 0);
}

std::span<int32_t> BatchLoader::starts_of(int64_t slot) {
  if (starts_.empty()) return {};
  return std::span(starts_).subspan(static_cast<size_t>(slot * context_),
                                    static_cast<size_t>(context_));
}

Batch BatchLoader::batch(int64_t first, int64_t rows) const {
  require(first + rows <= samples_, "a micro-batch reaches beyond the loader's room");
  const auto at = static_cast<size_t>(first * context_);
  const Shape shape{rows, context_};
  return {view_of(tokens_.data() + at, shape), view_of(targets_.data() + at, shape),
          view_of(weight_.data() + at, shape),
          starts_.empty() ? ConstTensor{} : view_of(starts_.data() + at, shape)};
}

double BatchLoader::weight() const {
  double sum = 0;
  for (float w : weight_) sum += static_cast<double>(w);
  return sum;
}

// The question that starts at target `at` of a row: whether all of it was predicted, and where it
// ends.
int64_t BatchLoader::grade_question(int64_t row, int64_t at, const int32_t* best,
                                    bool* right) const {
  const int32_t question = question_[static_cast<size_t>(row * context_ + at)];
  *right = true;
  while (at < context_ && question_[static_cast<size_t>(row * context_ + at)] == question) {
    *right = *right && best[at] == targets_[static_cast<size_t>(row * context_ + at)];
    ++at;
  }
  return at;
}

void BatchLoader::grade(int64_t first, int64_t count, const Tensor& best,
                        std::vector<int64_t>& asked, std::vector<int64_t>& answered) const {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* predicted = best.as<int32_t>() + i * context_;
    for (int64_t t = 0; t < context_;) {
      const auto at = static_cast<size_t>((first + i) * context_ + t);
      if (question_[at] == kUngraded) {
        ++t;
        continue;
      }
      bool right;
      const auto skill = static_cast<size_t>(skill_[at]);
      t = grade_question(first + i, t, predicted, &right);
      asked[skill] += 1;
      answered[skill] += right ? 1 : 0;
    }
  }
}

}  // namespace rwkv
