// The recurrence with random operands, forward and backward: as a whole, or in pieces whose states
// come from folds over maps.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/tensors.h"

namespace rwkv::test {

template <class T>
using AccOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// y, s_out, dr, dw_raw, dk, dv, da, db, ds_in.
using Wkv7Results = std::map<std::string, std::vector<double>>;

enum class Wkv7Ends { kGiven, kAbsent };  // of the whole: s_in and ds_out, or empty

template <class T>
class Wkv7Case {
 public:
  using Acc = AccOf<T>;
  using Results = Wkv7Results;
  static_assert(sizeof(Acc) >= sizeof(T));

  struct Dims {
    int64_t batch, tokens, heads, n;
  };

  Wkv7Case(const Dims& d, const std::vector<int64_t>& starts) : d_(d) {
    const double unit = 1 / std::sqrt(static_cast<double>(d.n));
    for (const auto& [name, scale] : {std::pair{"r", 0.5},
                                      {"k", 0.5},
                                      {"v", 0.5},
                                      {"dy", 0.5},
                                      {"a", unit},
                                      {"b", unit * 0.5}}) {
      assign(operand(name).view(), normals(name, d.batch * d.tokens * d.heads * d.n, scale));
    }
    w_raw_ = Owned<T>({d.batch, d.tokens, d.heads, d.n});
    // Slow decay, so that much of a state passes through a tile.
    std::vector<double> w_raw = normals("w_raw", w_raw_.size());
    for (double& x : w_raw) x -= 4;
    assign(w_raw_.view(), w_raw);
    s_in_ = ds_out_ = Owned<Acc>(square());
    assign(s_in_.view(), normals("s_in", s_in_.size()));
    assign(ds_out_.view(), normals("ds_out", s_in_.size()));
    starts_ = Owned<int32_t>({d.batch, d.tokens});
    for (int64_t b = 0; b < d.batch; ++b) {
      for (const int64_t t : starts) starts_[b * d.tokens + t] = 1;
    }
    some_start_ = !starts.empty();
  }
  // The same numbers in another type.
  template <class U>
  explicit Wkv7Case(const Wkv7Case<U>& other);

  ConstTensor s_in() const { return const_cast<Owned<Acc>&>(s_in_).view(); }
  ConstTensor ds_out() const { return const_cast<Owned<Acc>&>(ds_out_).view(); }
  void set_zero_boundaries() {
    for (auto* t : {&s_in_, &ds_out_}) std::fill(t->values().begin(), t->values().end(), Acc(0));
  }

  // tile 0: without maps.
  Results whole(const Backend& ops, int64_t tile, Wkv7Ends ends = Wkv7Ends::kGiven) const {
    const bool given = ends == Wkv7Ends::kGiven;
    return run(ops, 0, d_.tokens, given ? s_in() : ConstTensor{}, given ? ds_out() : ConstTensor{},
               tile, given);
  }
  // Tokens [begin, end) of a batch of one, without maps.
  Results piece(const Backend& ops, int64_t begin, int64_t end, ConstTensor s_in,
                ConstTensor ds_out) const {
    return run(ops, begin, end, s_in, ds_out, 0, true);
  }
  // Pieces between edges (multiples of the tile), a batch of one. `skip`: a mistake to plant: as
  // many maps nearest to a piece are left out of its folds.
  Results in_pieces(const Backend& ops, int64_t tile, std::vector<int64_t> edges,
                    int64_t skip = 0) const {
    const int64_t tiles = wkv7_tiles(d_.tokens, tile);
    const Shape shape{tiles, d_.batch, d_.heads, d_.n, wkv7_state_stride(d_.n)};
    Owned<Acc> m(shape), b(shape), c(shape), state(square()), dstate(square());
    const Wkv7Sequence all = sequence(0, d_.tokens, tile);
    ops.wkv7_map({}, {all, 0, tiles, m.view(), b.view()});
    ops.wkv7_map_backward({}, {all, operand_view("dy", 0, d_.tokens), 0, tiles, c.view()});
    edges.push_back(d_.tokens);
    Results joined;
    int64_t begin = 0;
    for (const int64_t end : edges) {
      const int64_t before = begin / tile, behind = wkv7_tiles(end, tile);
      ops.wkv7_fold({}, {.m = m.view(),
                         .add = b.view(),
                         .first = 0,
                         .end = std::max<int64_t>(0, before - skip),
                         .from = s_in(),
                         .out = state.view()});
      ops.wkv7_fold({}, {.m = m.view(),
                         .add = c.view(),
                         .first = std::min(tiles, behind + skip),
                         .end = tiles,
                         .transposed = true,
                         .from = ds_out(),
                         .out = dstate.view()});
      const Results part = run(ops, begin, end, state.view(), dstate.view(), tile, true);
      for (const auto& [name, values] : part) {
        auto& to = joined[name];
        if (name == "s_out" || (name == "ds_in" && begin > 0)) to.clear();
        if (name == "ds_in" && begin > 0) {
          to = first_ds_in_;
          continue;
        }
        to.insert(to.end(), values.begin(), values.end());
      }
      if (begin == 0) first_ds_in_ = part.at("ds_in");
      begin = end;
    }
    return joined;
  }

 private:
  template <class U>
  friend class Wkv7Case;

  Shape square() const { return {d_.batch, d_.heads, d_.n, d_.n}; }
  Owned<T>& operand(const std::string& name) {
    Owned<T>& t = operands_[name];
    if (t.size() == 0) t = Owned<T>({d_.batch, d_.tokens, d_.heads, d_.n});
    return t;
  }
  static ConstTensor cut(Tensor all, const Shape& shape, int64_t begin, int64_t end) {
    if (end - begin == shape[1]) return all;
    require(shape[0] == 1, "pieces need a batch of one");
    const Tensor rows = all.reshaped({shape[1], all.elements() / shape[1]}).rows(begin, end);
    Shape piece = shape;
    piece.dim[1] = end - begin;
    return rows.reshaped(piece);
  }
  ConstTensor operand_view(const std::string& name, int64_t begin, int64_t end) const {
    const Shape shape{d_.batch, d_.tokens, d_.heads, d_.n};
    return cut(const_cast<Owned<T>&>(operands_.at(name)).view(), shape, begin, end);
  }
  Wkv7Sequence sequence(int64_t begin, int64_t end, int64_t tile) const {
    const Shape shape{d_.batch, d_.tokens, d_.heads, d_.n};
    Wkv7Sequence in{.r = operand_view("r", begin, end),
                    .k = operand_view("k", begin, end),
                    .v = operand_view("v", begin, end),
                    .a = operand_view("a", begin, end),
                    .b = operand_view("b", begin, end),
                    .w_raw = cut(const_cast<Owned<T>&>(w_raw_).view(), shape, begin, end),
                    .tile = tile};
    if (some_start_) {
      in.starts =
          cut(const_cast<Owned<int32_t>&>(starts_).view(), {d_.batch, d_.tokens}, begin, end);
    }
    return in;
  }

  Results run(const Backend& ops, int64_t begin, int64_t end, ConstTensor s_in, ConstTensor ds_out,
              int64_t tile, bool wants_ends) const {
    const Wkv7Sequence in = sequence(begin, end, tile);
    const Shape tokens{d_.batch, end - begin, d_.heads, d_.n};
    const int64_t stride = wkv7_state_stride(d_.n), tiles = wkv7_tiles(end - begin, tile);
    const Shape maps{tiles, d_.batch, d_.heads, d_.n, stride};
    Owned<Acc> m(maps), b(maps), c(maps), s_out(square()), ds_in(square());
    Owned<Acc> saved({d_.batch, d_.heads, wkv7_saved_states(end - begin, tile), d_.n, stride});
    Owned<Acc> scratch({1, wkv7_backward_scratch(d_.n)});
    Owned<T> y(tokens), dr(tokens), dw(tokens), dk(tokens), dv(tokens), da(tokens), db(tokens);
    const ConstTensor dy = operand_view("dy", begin, end);
    if (tile > 0) {
      const int64_t skipped = wants_ends ? 0 : 1;
      ops.wkv7_map({}, {in, skipped, tiles - skipped, m.view(), b.view()});
      ops.wkv7_map_backward({}, {in, dy, skipped, tiles - skipped, c.view()});
    }
    const auto given = [&](Owned<Acc>& t) { return tile > 0 ? t.view() : Tensor{}; };
    ops.wkv7_forward({}, {.in = in,
                          .s_in = s_in,
                          .m = given(m),
                          .b = given(b),
                          .y = y.view(),
                          .s_out = wants_ends ? s_out.view() : Tensor{},
                          .s_saved = saved.view()});
    ops.wkv7_backward({}, {.in = in,
                           .s_saved = saved.view(),
                           .dy = dy,
                           .ds_out = ds_out,
                           .m = given(m),
                           .c = given(c),
                           .dr = dr.view(),
                           .dk = dk.view(),
                           .dv = dv.view(),
                           .da = da.view(),
                           .db = db.view(),
                           .dw_raw = dw.view(),
                           .ds_in = wants_ends ? ds_in.view() : Tensor{},
                           .scratch = scratch.view()});
    return {{"y", doubles(y.view())},        {"dr", doubles(dr.view())},
            {"dk", doubles(dk.view())},      {"dv", doubles(dv.view())},
            {"da", doubles(da.view())},      {"db", doubles(db.view())},
            {"dw_raw", doubles(dw.view())},  {"s_out", doubles(s_out.view())},
            {"ds_in", doubles(ds_in.view())}};
  }

  Dims d_;
  std::map<std::string, Owned<T>> operands_;
  Owned<T> w_raw_;
  Owned<Acc> s_in_, ds_out_;
  Owned<int32_t> starts_;
  bool some_start_ = false;
  mutable std::vector<double> first_ds_in_;
};

template <class T>
template <class U>
Wkv7Case<T>::Wkv7Case(const Wkv7Case<U>& other)
    : Wkv7Case(Dims{other.d_.batch, other.d_.tokens, other.d_.heads, other.d_.n}, {}) {
  auto& from = const_cast<Wkv7Case<U>&>(other);
  for (auto& [name, values] : from.operands_) {
    assign(operand(name).view(), doubles(values.view()));
  }
  assign(w_raw_.view(), doubles(from.w_raw_.view()));
  assign(s_in_.view(), doubles(from.s_in_.view()));
  assign(ds_out_.view(), doubles(from.ds_out_.view()));
  starts_ = from.starts_;
  some_start_ = from.some_start_;
}

}  // namespace rwkv::test
