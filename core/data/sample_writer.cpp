#include "core/data/sample_writer.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/data/tokenizer.h"

namespace rwkv {

SampleWriter::SampleWriter(const Philox& random, int64_t index, const SampleView& view)
    : random_(random), view_(view), index_(static_cast<uint64_t>(index)) {
  const size_t context = view.weight.size();
  require(view.tokens.size() == context + 1 && view.question.size() == context &&
              view.skill.size() == context,
          "a sample's views must have one length");
  std::ranges::fill(view.weight, 1.0f);
  std::ranges::fill(view.question, kUngraded);
  std::ranges::fill(view.skill, kUngraded);
  std::ranges::fill(view_.starts, 0);
  view_.tokens[used_++] = kEndToken;
}

int SampleWriter::choose(int options) {
  pending_ += std::log(static_cast<double>(options));
  return static_cast<int>(random_.below(static_cast<uint64_t>(options), index_, decisions_++));
}

bool SampleWriter::decide(int part, int whole) {
  const auto drawn =
      static_cast<int>(random_.below(static_cast<uint64_t>(whole), index_, decisions_++));
  const bool yes = drawn < part;
  pending_ += std::log(static_cast<double>(whole) / (yes ? part : whole - part));
  return yes;
}

void SampleWriter::say(std::string_view text) {
  if (text.empty() || full()) return;
  nats_ += pending_;
  pending_ = 0;
  const size_t fits = std::min(text.size(), left());
  for (const char c : text.substr(0, fits)) {
    view_.tokens[used_++] = static_cast<unsigned char>(c) + 1;
  }
}

void SampleWriter::answer(std::string_view text, int32_t skill) {
  if (text.size() <= left()) {
    // Token i is target i - 1.
    std::ranges::fill(view_.question.subspan(used_ - 1, text.size()), questions_++);
    std::ranges::fill(view_.skill.subspan(used_ - 1, text.size()), skill);
  }
  say(text);
}

}  // namespace rwkv
