#pragma once

#include "core/base/stream.h"
#include "kernels/matmul.h"
#include "kernels/reference/scalar.h"
#include "kernels/reference/token_sum.h"

namespace rwkv::reference {

template <class S>
void matmul(const Stream&, const Matmul& op) {
  const int64_t m = op.c.shape[0], n = op.c.shape[1];
  const int64_t k = op.trans_a ? op.a.shape[0] : op.a.shape[1];
  const S* a = op.a.as<S>();
  const S* b = op.b.as<S>();
  S* c = op.c.as<S>();
  const S* add = op.add.empty() ? c : op.add.as<S>();
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      S sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum +=
            (op.trans_a ? a[l * m + i] : a[i * k + l]) * (op.trans_b ? b[j * k + l] : b[l * n + j]);
      }
      c[i * n + j] = op.beta == 0 ? sum : add[i * n + j] + sum;
    }
  }
}

template <class S>
void weight_gradient(const Stream&, const WeightGradient& op) {
  const int64_t rows = op.left.shape[0], m = op.left.shape[1], n = op.right.shape[1];
  const S *left = op.left.as<S>(), *right = op.right.as<S>();
  for (int64_t begin = 0; begin < rows; begin = op.leaves.end(begin, rows)) {
    const int64_t end = op.leaves.end(begin, rows);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        S sum = 0;
        for (int64_t r = begin; r < end; ++r) sum += left[r * m + i] * right[r * n + j];
        add_partial(op.to, i * n + j, sum);
      }
    }
  }
}

}  // namespace rwkv::reference
