#pragma once

#include "core/base/stream.h"
#include "kernels/embedding.h"
#include "kernels/reference/scalar.h"
#include "kernels/reference/token_sum.h"

namespace rwkv::reference {

template <class S>
void embedding_forward(const Stream&, const EmbeddingForward& op) {
  const int64_t rows = op.tokens.elements(), width = op.table.shape[1];
  const int32_t* tokens = op.tokens.as<int32_t>();
  const S* table = op.table.as<S>();
  S* out = op.out.as<S>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) out[r * width + c] = table[tokens[r] * width + c];
  }
}

template <class S>
void embedding_backward(const Stream&, const EmbeddingBackward& op) {
  const int64_t rows = op.tokens.elements(), width = op.dtable.sum.shape[1];
  const int32_t* tokens = op.tokens.as<int32_t>();
  const S* dout = op.dout.as<S>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      add_partial(op.dtable, tokens[r] * width + c, dout[r * width + c]);
    }
  }
}

}  // namespace rwkv::reference
