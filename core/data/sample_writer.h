// Writes one generated sample as a chain of decisions, and keeps the exact account of what each
// byte was worth.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/base/rng.h"
#include "core/data/source.h"

namespace rwkv {

// Text is either said (certain) or follows from decisions. The nats (-ln p) of all decisions taken
// since the last byte are charged to the next byte. The account is exact under one rule, which is
// the caller's: the outcomes of those decisions must be told apart by that very byte.
class SampleWriter {
 public:
  // Decision i of sample `index` takes number (index, i) of `random`. Starts the sample with the
  // end token, every target weighing 1 and ungraded. The view must outlive the writer; its four
  // spans must have the lengths that SampleView names.
  SampleWriter(const Philox& random, int64_t index, const SampleView& view);

  // All context + 1 tokens are there; what is said from here on is dropped and costs nothing.
  bool full() const { return left() == 0; }
  // Tokens that still fit.
  size_t left() const { return view_.tokens.size() - used_; }

  // One of `options` >= 1 equally likely outcomes, counted from 0.
  int choose(int options);
  // True with probability part / whole; part in [0, whole].
  bool decide(int part, int whole);

  void say(std::string_view text);
  // Says `text` as the answer to the sample's next question. Not graded when the sample ends before
  // it does.
  void answer(std::string_view text, int32_t skill);

  // Nats of the targets written so far.
  double nats() const { return nats_; }

 private:
  const Philox& random_;
  const SampleView& view_;
  uint64_t index_, decisions_ = 0;
  size_t used_ = 0;
  int32_t questions_ = 0;
  double pending_ = 0, nats_ = 0;
};

}  // namespace rwkv
