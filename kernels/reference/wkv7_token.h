// One token of the WKV-7 recurrence, and where its operands lie.
#pragma once

#include "core/base/stream.h"
#include "kernels/reference/scalar.h"
#include "kernels/wkv7.h"

namespace rwkv::reference {

struct Wkv7Sizes {
  int64_t batch, tokens, heads, n, tile, tiles;
  int64_t padded;  // elements from map to map
  int64_t handed;  // tokens before the state that is handed on

  explicit Wkv7Sizes(const Wkv7Sequence& in)
      : batch(in.k.shape[0]),
        tokens(in.k.shape[1]),
        heads(in.k.shape[2]),
        n(in.k.shape[3]),
        tile(in.tile == 0 ? tokens : in.tile),
        tiles(wkv7_tiles(tokens, in.tile)),
        padded(n * wkv7_state_stride(n)),
        handed(tokens - in.overlap) {}

  // First element of token t of head bh = b H + h.
  int64_t at(int64_t bh, int64_t t) const {
    return ((bh / heads * tokens + t) * heads + bh % heads) * n;
  }
  // Saved states: the one before token `first` of a tile's chunk.
  int64_t chunk(int64_t i, int64_t first) const {
    return i * wkv7_saved_states(tile) + (first - i * tile) / kWkv7Saved;
  }
  int64_t tile_end(int64_t i) const { return (i + 1) * tile < tokens ? (i + 1) * tile : tokens; }
  bool starts(const Wkv7Sequence& in, int64_t bh, int64_t t) const {
    return !in.starts.empty() && in.starts.as<int32_t>()[bh / heads * tokens + t] != 0;
  }
};

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
