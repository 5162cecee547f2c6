#include "core/data/stream_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/base/error.h"

namespace rwkv {
namespace {

// Whole samples of the stream; at least `needed` of them, or an InputError.
int64_t count_samples(const TokenStream& stream, int64_t context, int64_t needed) {
  require(context >= 1, "a sample has at least one target");
  const int64_t samples = (stream.size() - 1) / context;
  if (stream.size() < 1 || samples < needed) {
    throw InputError(fmt::format("{}: too few for {} of train.context {}: needs {} tokens",
                                 stream.describe(), needed == 1 ? "a sample" : "two samples",
                                 context, needed * context + 1));
  }
  return samples;
}

}  // namespace

StreamSource::StreamSource(std::shared_ptr<const TokenStream> stream, int64_t context)
    : stream_(std::move(stream)),
      context_(context),
      samples_(count_samples(*stream_, context, 1)),
      tokens_(stream_->size()) {}

StreamSource::Parts StreamSource::split(const std::shared_ptr<const TokenStream>& stream,
                                        int64_t context, double fraction) {
  const int64_t samples = count_samples(*stream, context, 2);
  const int64_t held_out =
      std::clamp<int64_t>(std::llround(static_cast<double>(samples) * fraction), 1, samples - 1);
  Parts parts{std::make_unique<StreamSource>(stream, context),
              std::make_unique<StreamSource>(stream, context)};
  parts.train->samples_ = parts.held_out->first_ = samples - held_out;
  parts.train->tokens_ = parts.train->samples_ * context + 1;
  parts.held_out->samples_ = held_out;
  parts.held_out->tokens_ = stream->size() - parts.held_out->first_ * context;
  return parts;
}

double StreamSource::read(int64_t index, const SampleView& view) const {
  require(index >= 0 && index < samples_, "no sample of that index");
  const auto context = static_cast<size_t>(context_);
  require(view.tokens.size() == context + 1 && view.weight.size() == context &&
              view.question.size() == context && view.skill.size() == context,
          "a sample's views must have the source's length");
  stream_->read((first_ + index) * context_, view.tokens);
  if (!view.starts.empty()) {
    require(view.starts.size() == context, "a sample has a start or none at each input");
    stream_->read_starts((first_ + index) * context_, view.starts);
  }
  std::ranges::fill(view.weight, 1.0f);
  std::ranges::fill(view.question, kUngraded);
  std::ranges::fill(view.skill, kUngraded);
  return std::numeric_limits<double>::quiet_NaN();
}

std::string StreamSource::describe() const {
  const int64_t all = (stream_->size() - 1) / context_;
  if (samples_ == all) return stream_->describe();
  return fmt::format("{}, samples {} to {} of {}", stream_->describe(), with_commas(first_ + 1),
                     with_commas(first_ + samples_), with_commas(all));
}

}  // namespace rwkv
