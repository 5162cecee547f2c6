// Dynamic loss scaling: gradients in fp16 are computed of the loss times a power of two, which
// rises until they overflow, and falls then (Micikevicius et al., arXiv 1710.03740, section 3.2).
#pragma once

#include <algorithm>
#include <cstdint>

namespace rwkv {

struct LossScale {
  // Gradients are sums over tokens, of up to 1 a token and logit: they need little help at first.
  static constexpr int kFirst = 8, kLeast = -8, kMost = 24;
  static constexpr int64_t kGrowAfter = 1000;

  int exponent = kFirst;
  int64_t good = 0;  // steps since the exponent changed

  double scale() const { return exponent < 0 ? 1.0 / (1 << -exponent) : 1 << exponent; }
  // After a step whose gradients were finite.
  void succeed() {
    if (++good < kGrowAfter) return;
    good = 0;
    exponent = std::min(exponent + 1, kMost);
  }
  // After an overflow. False: the least scale overflows too.
  bool lower() {
    good = 0;
    if (exponent == kLeast) return false;
    --exponent;
    return true;
  }
};

}  // namespace rwkv
