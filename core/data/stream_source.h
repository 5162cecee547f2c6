// A token stream cut into samples.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/data/source.h"
#include "core/data/token_stream.h"

namespace rwkv {

// Sample n is the stream's tokens n * context ... n * context + context; the last token of one
// sample is the first of the next. Every target weighs 1; nothing is graded.
class StreamSource final : public SampleSource {
 public:
  // All samples of the stream. Throws InputError naming the tokens there and needed when it holds
  // none.
  StreamSource(std::shared_ptr<const TokenStream>, int64_t context);

  // The two parts of a stream whose last `fraction`, in (0, 1), of the samples is held out; either
  // part has at least one sample. Throws InputError when the stream holds fewer than two.
  struct Parts {
    std::unique_ptr<StreamSource> train, held_out;
  };
  static Parts split(const std::shared_ptr<const TokenStream>&, int64_t context, double fraction);

  int64_t size() const override { return samples_; }
  int64_t tokens() const override { return tokens_; }
  double read(int64_t index, const SampleView&) const override;
  std::string describe() const override;

 private:
  std::shared_ptr<const TokenStream> stream_;
  int64_t context_, first_ = 0, samples_, tokens_;
};

}  // namespace rwkv
