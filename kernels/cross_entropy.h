// Softmax cross entropy over rows of logits, with L2Wrap (BlinkDL): the gradient of the largest
// logit gets l2wrap * logit added; the loss does not contain it.
#pragma once

#include "core/base/tensor.h"

namespace rwkv {

// The gradient is that of sum_rows weight * loss; the caller divides by the job's total weight when
// all ranks' gradients are together.
struct CrossEntropy {
  ConstTensor logits;   // (R, V) acc
  ConstTensor targets;  // (R) i32 in [0, V)
  ConstTensor weight;   // (R) f32
  double l2wrap = 0;
  double grad_scale = 1;  // of the gradient: so that it stays within what the type can hold
  Tensor loss;            // (R) acc: -ln softmax(logits)[target], unweighted
  Tensor best;            // (R) i32: argmax, the lowest index on ties
  Tensor dlogits;  // (R, V) compute type; empty: forward only. May share memory with logits when
                   // the types are equal.
};

}  // namespace rwkv
