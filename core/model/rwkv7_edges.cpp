// Where a block's recurrence and halos cross the edges of tiles and of segments.
#include "core/model/rwkv7_activations.h"

namespace rwkv {
namespace {

Tensor at(Boundary boundary, size_t which) { return boundary.empty() ? Tensor{} : boundary[which]; }

// Tiles whose maps are needed. Neighbours need all of them. Alone, a first tile that starts from
// zero is its own fold, and behind the last one nothing may be wanted.
struct Tiles {
  int64_t first, end;
  Tiles(const Pass& pass, int64_t tiles, bool starts_from_zero, bool ends_here)
      : first(0), end(tiles) {
    const bool neighbours = pass.exchange != nullptr && !pass.exchange->passes_on();
    if (neighbours || pass.all_maps) return;
    if (starts_from_zero) first = 1;
    if (ends_here) end = tiles - 1;
    if (pass.tile == 0) end = first;  // the recurrence runs through
  }
  bool any() const { return first < end; }
};

}  // namespace

// A neighbour waits for a row of the norm before the shift can begin.
void Rwkv7Block::norm_shift_forward(const Call& call, const NormShiftForward& op, size_t which,
                                    Boundary entering, Boundary leaving) const {
  const Pass& pass = call.pass;
  if (pass.exchange == nullptr) {
    NormShiftForward fused = op;
    fused.keeps_out = !at(leaving, which).empty();
    pass.ops.norm_shift_forward(pass.stream, fused);
    halo_forward(call, op.norm.out, which, entering, leaving);
    return;
  }
  pass.ops.layer_norm_forward(pass.stream, op.norm);
  halo_forward(call, op.norm.out, which, entering, leaving);
  pass.ops.token_shift_forward(pass.stream, op.shift);
}

// The row before the segment: from the left neighbour, or as given.
void Rwkv7Block::halo_forward(const Call& call, const Tensor& u, size_t which, Boundary entering,
                              Boundary leaving) const {
  const auto& [pass, params, index, a] = call;
  StateExchange* exchange = pass.exchange;
  Tensor row = at(leaving, which);
  if (row.empty() && exchange != nullptr) row = a.halo_row;
  if (row.empty()) return;
  pass.ops.halo_forward(pass.stream, {u, a.tokens() - 1 - pass.overlap, row});
  if (exchange == nullptr) return;
  exchange->send_halo(layer_, which == kAttShift ? 0 : 1, row, entering[which]);
  exchange->receive_halo();
}

void Rwkv7Block::send_halo_gradient(const Call& call, const TokenShiftBackward& shift, size_t which,
                                    Boundary dleaving, Boundary dentering) const {
  const Tensor dhalo = at(dentering, which);
  if (dhalo.empty()) return;
  const Pass& pass = call.pass;
  pass.ops.halo_backward(pass.stream, {shift.mixes, shift.mix, shift.dout, shift.starts, dhalo});
  if (pass.exchange == nullptr) return;
  pass.exchange->send_halo_gradient(layer_, which == kAttShift ? 0 : 1, dhalo, dleaving[which]);
}

void Rwkv7Block::receive_halo_gradient(const Call& call, TokenShiftBackward& shift, size_t which,
                                       Boundary dleaving) const {
  if (call.pass.exchange != nullptr) call.pass.exchange->receive_halo();
  shift.dhalo_out = at(dleaving, which);
  shift.at = call.a.tokens() - 1 - call.pass.overlap;
}

void Rwkv7Block::maps_forward(const Call& call, Boundary entering, Boundary leaving) const {
  const auto& [pass, params, index, a] = call;
  const Wkv7Sequence in = call.recurrence();
  const Tiles tiles(pass, wkv7_tiles(a.tokens(), in.tile), entering[kWkv].empty(),
                    at(leaving, kWkv).empty());
  if (tiles.any()) {
    pass.ops.wkv7_map(pass.stream, {in, tiles.first, tiles.end, a.tile_maps, a.tile_states});
  }
  if (pass.exchange != nullptr) {
    pass.exchange->send_maps(pass.stream, layer_, a.tile_maps, a.tile_states);
  }
}

void Rwkv7Block::recurrence_forward(const Call& call, Boundary entering, Boundary leaving) const {
  const auto& [pass, params, index, a] = call;
  if (pass.exchange != nullptr) {
    pass.exchange->receive_state(pass.stream, layer_, entering[kWkv]);
  }
  const bool folds = pass.tile > 0;
  pass.ops.wkv7_forward(pass.stream, {.in = call.recurrence(),
                                      .s_in = entering[kWkv],
                                      .m = folds ? a.tile_maps : Tensor{},
                                      .b = folds ? a.tile_states : Tensor{},
                                      .y = a.heads(a.y),
                                      .s_out = at(leaving, kWkv),
                                      .s_saved = a.states});
}

void Rwkv7Block::maps_backward(const Call& call, Boundary dleaving, Boundary dentering) const {
  const auto& [pass, params, index, a] = call;
  const Wkv7Sequence in = call.recurrence();
  const Tiles tiles(pass, wkv7_tiles(a.tokens(), in.tile), at(dentering, kWkv).empty(),
                    at(dleaving, kWkv).empty());
  if (tiles.any()) {
    pass.ops.wkv7_map_backward(pass.stream,
                               {in, a.heads(a.dy), tiles.first, tiles.end, a.tile_states});
  }
  if (pass.exchange != nullptr) {
    pass.exchange->send_adjoints(pass.stream, layer_, a.tile_maps, a.tile_states);
  }
}

// From dy and the bonus's gradient to dr, dk, dv (added to the bonus's), da, db, dw_raw.
void Rwkv7Block::recurrence_backward(const Call& call, Boundary dleaving,
                                     Boundary dentering) const {
  const auto& [pass, params, index, a] = call;
  const Tensor ds_out = at(dleaving, kWkv);
  if (pass.exchange != nullptr) pass.exchange->receive_gradient(pass.stream, layer_, ds_out);
  const bool folds = pass.tile > 0;
  const Tensor r = a.heads(a.r);
  pass.ops.wkv7_backward(pass.stream,
                         {.in = call.recurrence(),
                          .s_saved = a.states,
                          .dy = a.heads(a.dy),
                          .ds_out = ds_out,
                          .m = folds ? a.tile_maps : Tensor{},
                          .c = folds ? a.tile_states : Tensor{},
                          .bonus = {a.dbonus.reshaped({r.shape[0], r.shape[1], r.shape[2]}),
                                    call.vec(Rwkv7Param::kRk)},
                          .dr = a.heads(a.dr),
                          .dk = a.heads(a.dk),
                          .dv = a.heads(a.dv),
                          .da = a.heads(a.da),
                          .db = a.heads(a.db),
                          .dw_raw = a.heads(a.dw_raw),
                          .ds_in = at(dentering, kWkv),
                          .scratch = a.wkv_scratch});
}

}  // namespace rwkv
