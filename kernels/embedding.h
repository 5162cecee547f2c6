// Rows of a table by token.
#pragma once

#include "kernels/token_sum.h"

namespace rwkv {

// The table is read in the accumulation type and rounded once to the type of `out`.
struct EmbeddingForward {
  ConstTensor table;   // (V, C) acc
  ConstTensor tokens;  // (R) i32, each in [0, V): checked where they are read
  Tensor out;          // (R, C)
};

// dtable[token] += dout row, rows in order. In fixed point a row is a term of its own: no leaves
// are needed.
struct EmbeddingBackward {
  ConstTensor tokens;  // (R) i32
  ConstTensor dout;    // (R, C)
  TokenSum dtable;     // (V, C)
};

}  // namespace rwkv
