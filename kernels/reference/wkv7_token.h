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

// w_raw of a token and head, with w0 added where it is given. What `at` returns holds until it is
// called again.
template <class S>
class RawDecayRows {
 public:
  explicit RawDecayRows(const Wkv7Sequence& in) : raw_(in.w_raw.as<S>()), w0_(in.w0.as<S>()) {
    heads_ = in.k.shape[2], n_ = in.k.shape[3];
  }
  const S* at(int64_t place) {
    if (w0_ == nullptr) return raw_ + place;
    const S* w0 = w0_ + place / n_ % heads_ * n_;
    for (int64_t j = 0; j < n_; ++j) sum_[j] = raw_[place + j] + w0[j];
    return sum_;
  }

 private:
  const S *raw_, *w0_;
  int64_t heads_, n_;
  S sum_[kWkv7MaxHead];
};

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
