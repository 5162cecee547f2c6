// One token of the WKV-7 recurrence.
#pragma once

#include "core/base/stream.h"
#include "kernels/reference/scalar.h"
#include "kernels/wkv7_sizes.h"

namespace rwkv::reference {

template <class S>
S decay_of(const S& w_raw) {
  return std::exp(-S(kDecayScale) * sigmoid(w_raw));
}

// Row i of the state, in place: row <- row diag(w) + (row a) b^T + value k^T. Rows never mix.
template <class S>
void wkv7_token_row(int64_t n, const S* w_raw, const S* k, const S& value, const S* a, const S* b,
                    S* row) {
  S removed = 0;
  for (int64_t j = 0; j < n; ++j) removed += row[j] * a[j];
  for (int64_t j = 0; j < n; ++j) {
    row[j] = row[j] * decay_of(w_raw[j]) + removed * b[j] + value * k[j];
  }
}

// All rows: state (N, N), row = value, column = key. v may be nullptr: zero.
template <class S>
void wkv7_token(int64_t n, const S* w_raw, const S* k, const S* v, const S* a, const S* b,
                S* state) {
  for (int64_t i = 0; i < n; ++i) {
    wkv7_token_row(n, w_raw, k, v == nullptr ? S(0) : v[i], a, b, state + i * n);
  }
}

}  // namespace rwkv::reference
