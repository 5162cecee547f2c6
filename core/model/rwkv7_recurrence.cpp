// The recurrence of time mix, and how its state crosses tiles.
#include "core/model/rwkv7_activations.h"

namespace rwkv {
namespace {

// Tiles whose maps are needed: a first one that starts from zero is its own fold, and behind the
// last one nothing may be wanted.
struct Tiles {
  int64_t first, end;
  Tiles(int64_t tiles, bool starts_from_zero, bool ends_here)
      : first(starts_from_zero ? 1 : 0), end(ends_here ? tiles - 1 : tiles) {}
  bool any() const { return first < end; }
};

}  // namespace

void Rwkv7Block::recurrence_forward(const Call& call, ConstTensor entering, Tensor leaving) const {
  const auto& [pass, params, index, a] = call;
  const Wkv7Sequence in = call.recurrence();
  const Tiles tiles(wkv7_tiles(a.tokens(), in.tile), entering.empty(), leaving.empty());
  const bool folds = in.tile > 0 && tiles.any();
  if (folds) {
    pass.ops.wkv7_map(pass.stream, {in, tiles.first, tiles.end, a.tile_maps, a.tile_states});
  }
  pass.ops.wkv7_forward(pass.stream, {.in = in,
                                      .s_in = entering,
                                      .m = folds ? a.tile_maps : Tensor{},
                                      .b = folds ? a.tile_states : Tensor{},
                                      .y = a.heads(a.y),
                                      .s_out = leaving,
                                      .s_saved = a.states});
}

// From dy to dr, dk, dv (added to the bonus's), da, db, dw_raw.
void Rwkv7Block::recurrence_backward(const Call& call, ConstTensor dleaving,
                                     Tensor dentering) const {
  const auto& [pass, params, index, a] = call;
  const Wkv7Sequence in = call.recurrence();
  const Tiles tiles(wkv7_tiles(a.tokens(), in.tile), dentering.empty(), dleaving.empty());
  const bool folds = in.tile > 0 && tiles.any();
  if (folds) {
    pass.ops.wkv7_map_backward(pass.stream,
                               {in, a.heads(a.dy), tiles.first, tiles.end, a.tile_states});
  }
  pass.ops.wkv7_backward(pass.stream, {.in = in,
                                       .s_saved = a.states,
                                       .dy = a.heads(a.dy),
                                       .ds_out = dleaving,
                                       .m = folds ? a.tile_maps : Tensor{},
                                       .c = folds ? a.tile_states : Tensor{},
                                       .dr = a.heads(a.dr),
                                       .dk = a.heads(a.dk),
                                       .dv = a.heads(a.dv),
                                       .da = a.heads(a.da),
                                       .db = a.heads(a.db),
                                       .dw_raw = a.heads(a.dw_raw),
                                       .ds_in = dentering,
                                       .scratch = a.wkv_scratch});
}

}  // namespace rwkv
