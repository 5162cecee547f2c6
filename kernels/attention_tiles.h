// How attention is cut into tiles, for the kernels of every backend. Rows are the L + T tokens that
// are here, by their number among them; places are those of the sample; tiles are cut at multiples
// of kAttentionTile places.
#pragma once

#include "kernels/attention.h"

namespace rwkv {

struct AttentionTiles {
  int64_t batch, tokens, left, heads, key_heads, size, first_place, window;
  const int32_t* positions;
  float scale;

  explicit AttentionTiles(const AttentionInput& in)
      : batch(in.q.shape[0]),
        tokens(in.q.shape[1]),
        left(in.k_left.empty() ? 0 : in.k_left.shape[1]),
        heads(in.q.shape[2]),
        key_heads(in.k.shape[2]),
        size(in.q.shape[3]),
        first_place(in.first - left),
        window(in.window),
        positions(reinterpret_cast<const int32_t*>(in.positions.data)),
        scale(static_cast<float>(in.scale)) {}

  [[gnu::always_inline]] constexpr int64_t rows() const { return left + tokens; }
  [[gnu::always_inline]] constexpr int64_t group() const { return heads / key_heads; }
  [[gnu::always_inline]] constexpr int64_t tile_of(int64_t row) const {
    return (first_place + row) / kAttentionTile;
  }
  [[gnu::always_inline]] constexpr int64_t end_tile() const { return tile_of(rows() - 1) + 1; }
  // Row of a tile's first place; may be before row 0.
  [[gnu::always_inline]] constexpr int64_t row_of(int64_t tile) const {
    return tile * kAttentionTile - first_place;
  }
  // The last tile with queries that see keys of `tile`.
  [[gnu::always_inline]] constexpr int64_t last_query_tile(int64_t tile) const {
    const int64_t last = end_tile() - 1;
    const int64_t seeing = tile + (window + kAttentionTile - 2) / kAttentionTile;
    return window > 0 && seeing < last ? seeing : last;
  }
  // The first row that the query of a row sees; its last is its own.
  [[gnu::always_inline]] constexpr int64_t first_seen(int64_t b, int64_t row) const {
    int64_t before = positions[b * tokens + row - left];
    if (window > 0 && before > window - 1) before = window - 1;
    return row - (before < row ? before : row);
  }
  // Of a row in (B, L, H, N) or (B, T, H, N), whichever has it.
  [[gnu::always_inline]] constexpr int64_t place_in(int64_t b, int64_t row, int64_t head,
                                                    int64_t of_heads) const {
    const int64_t at = row < left ? b * left + row : b * tokens + row - left;
    return (at * of_heads + head) * size;
  }
};

}  // namespace rwkv
