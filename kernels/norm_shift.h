// Layer norm and the token shift that follows it in each mixer, as one op: shift.u is norm.out.
// Backends that fuse them do not write and read what lies between twice.
#pragma once

#include "kernels/layer_norm.h"
#include "kernels/token_shift.h"

namespace rwkv {

struct NormShiftForward {
  LayerNormForward norm;
  TokenShiftForward shift;
  bool keeps_out = true;  // false: norm.out may be left without a meaning
};

// norm.dout is shift.du, which may be left without a meaning. Where a backend does not read the
// norm's output (Backend::norm_backward_reads_out), of shift.u the shape alone is asked for.
struct NormShiftBackward {
  LayerNormBackward norm;
  TokenShiftBackward shift;
};

}  // namespace rwkv
