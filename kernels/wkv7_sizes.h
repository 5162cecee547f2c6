// Sizes of a pass over the WKV-7 recurrence, and where its tokens, saved states and maps lie: the
// same for every backend.
//
// Always inlined: CPU kernels are compiled once per instruction set, and a copy left out of line
// could be the one the linker keeps for all of them.
#pragma once

#include "kernels/documents.h"
#include "kernels/wkv7.h"

namespace rwkv {

struct Wkv7Sizes {
  int64_t batch, tokens, heads, n, tile, tiles;
  int64_t padded;  // elements from map to map
  int64_t handed;  // tokens before the state that is handed on

  [[gnu::always_inline]] explicit Wkv7Sizes(const Wkv7Sequence& in)
      : batch(in.k.shape[0]),
        tokens(in.k.shape[1]),
        heads(in.k.shape[2]),
        n(in.k.shape[3]),
        tile(in.tile == 0 ? tokens : in.tile),
        tiles(wkv7_tiles(tokens, in.tile)),
        padded(n * wkv7_state_stride(n)),
        handed(tokens - in.overlap) {}

  // First element of token t of head bh = b H + h.
  [[gnu::always_inline]] int64_t at(int64_t bh, int64_t t) const {
    return ((bh / heads * tokens + t) * heads + bh % heads) * n;
  }
  // Saved states: the one before token `first` of a tile's chunk.
  [[gnu::always_inline]] int64_t chunk(int64_t i, int64_t first) const {
    return i * wkv7_saved_states(tile) + (first - i * tile) / kWkv7Saved;
  }
  [[gnu::always_inline]] int64_t tile_end(int64_t i) const {
    return (i + 1) * tile < tokens ? (i + 1) * tile : tokens;
  }
  [[gnu::always_inline]] bool starts(const Wkv7Sequence& in, int64_t bh, int64_t t) const {
    return starts_at(in.starts, bh / heads * tokens + t);
  }
};

}  // namespace rwkv
