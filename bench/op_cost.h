// What an op has to do at least: the arithmetic of its products, and each operand read once and
// each result written once (what is added to, both). Divided by what a device can do that is the
// op's roofline.
#pragma once

#include <algorithm>

#include "kernels/backend.h"

namespace rwkv::bench {

struct OpCost {
  double flops = 0, bytes = 0;
};

// Peak rates of a device.
struct Roof {
  double flops_a_second = 989e12;  // dense bf16 of H100 and H200
  double bytes_a_second = 3.35e12;

  double seconds(const OpCost& cost) const {
    return std::max(cost.flops / flops_a_second, cost.bytes / bytes_a_second);
  }
};

OpCost cost(const Matmul&);
OpCost cost(const ReluSquaredProduct&);
OpCost cost(const WeightGradient&);
OpCost cost(const ActivationForward&);
OpCost cost(const ActivationBackward&);
OpCost cost(const Cast&);
OpCost cost(const SumSquares&);
OpCost cost(const EmbeddingForward&);
OpCost cost(const EmbeddingBackward&);
OpCost cost(const LayerNormForward&);
OpCost cost(const LayerNormBackward&);
OpCost cost(const TokenShiftForward&);
OpCost cost(const NormShiftForward&);
OpCost cost(const NormShiftBackward&);
OpCost cost(const HaloForward&);
OpCost cost(const HaloBackward&);
OpCost cost(const TimeMixInForward&);
OpCost cost(const TimeMixInBackward&);
OpCost cost(const Wkv7Map&);
OpCost cost(const Wkv7Forward&);
OpCost cost(const Wkv7MapBackward&);
OpCost cost(const Wkv7Backward&);
OpCost cost(const Wkv7Fold&);
OpCost cost(const TimeMixOutForward&);
OpCost cost(const TimeMixOutBackward&);
OpCost cost(const Rope&);
OpCost cost(const AttentionHalo&);
OpCost cost(const AttentionForward&);
OpCost cost(const AttentionBackward&);
OpCost cost(const Dropout&);
OpCost cost(const CrossEntropy&);
OpCost cost(const AdamW&);

}  // namespace rwkv::bench
