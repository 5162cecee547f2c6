// The recurrence of heads of 64 with operands as bf16 has them, forward and backward, and its maps:
// what tests of the kernels in chunks compare.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/tensors.h"
#include "tests/support/tolerance.h"

namespace rwkv::test::chunks {

inline constexpr int64_t kBatch = 2, kHeads = 2, kN = 64;
using Numbers = std::map<std::string, std::vector<double>>;

enum class Keys { kRandom, kRepeated, kFlipped };
struct Mode {
  std::string name;
  Keys keys = Keys::kRandom;
  std::optional<double> w_raw = {};  // of every channel; empty: random
};

// Which of a segment's ends are there.
struct Ends {
  bool s_in, s_out, ds_out, ds_in;
};
inline constexpr Ends kAll{true, true, true, true}, kNone{false, false, false, false};

// Where the state does not run through.
struct Cuts {
  std::vector<int64_t> starts[kBatch] = {};  // tokens of each row; below 0: from the end
  int64_t overlap = 0;
};

// The removal key of each token and head: unit vectors.
inline std::vector<double> unit_keys(const Mode& mode, int64_t tokens) {
  std::vector<double> keys = normals("kk", kBatch * tokens * kHeads * kN);
  const std::vector<double> sign = normals("sign", kBatch * tokens * kHeads);
  for (int64_t row = 0; row < kBatch * tokens * kHeads; ++row) {
    double* key = keys.data() + row * kN;
    const double* from = mode.keys == Keys::kRandom ? key : keys.data() + row % kHeads * kN;
    const bool flips = mode.keys == Keys::kFlipped && sign[static_cast<size_t>(row)] < 0;
    double norm = 0;
    for (int64_t j = 0; j < kN; ++j) norm += from[j] * from[j];
    norm = std::sqrt(norm) * (flips ? -1 : 1);
    for (int64_t j = 0; j < kN; ++j) key[j] = from[j] / norm;
  }
  return keys;
}

inline double as_bf16(double x) {
  return static_cast<double>(static_cast<float>(bf16(static_cast<float>(x))));
}

// Operands as the tested kernels see them.
inline Numbers operands(const Mode& mode, int64_t tokens) {
  const int64_t count = kBatch * tokens * kHeads * kN;
  Numbers x;
  for (const char* name : {"r", "v", "dy", "dv"}) x[name] = normals(name, count);
  x["k"] = normals("k", count, 0.5);
  x["a"] = unit_keys(mode, tokens);
  x["b"] = normals("rate", count);
  for (size_t i = 0; i < x["a"].size(); ++i) {
    const double rate = mode.keys == Keys::kRandom ? 1 / (1 + std::exp(-x["b"][i])) : 0.999;
    x["b"][i] = x["a"][i] * rate;
    x["a"][i] = -x["a"][i];
  }
  x["w_raw"] = normals("w_raw", count, 2);
  for (double& w : x["w_raw"]) w = mode.w_raw.value_or(w - 1);
  for (auto& [name, values] : x) {
    for (double& value : values) value = as_bf16(value);
  }
  x["w0"] = normals("w0", kHeads * kN, 0.25);
  x["r_k"] = normals("r_k", kHeads * kN);
  x["dbonus"] = normals("dbonus", kBatch * tokens * kHeads);
  for (const char* name : {"w0", "r_k", "dbonus"}) {
    for (double& value : x[name]) value = static_cast<float>(value);
  }
  x["s_in"] = normals("s_in", kBatch * kHeads * kN * kN, 0.3);
  x["ds_out"] = normals("ds_out", kBatch * kHeads * kN * kN, 0.1);
  return x;
}

// The operands in a backend's types, and what it makes of them.
template <class T>
class Recurrence {
 public:
  using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

  Recurrence(const Numbers& x, int64_t tokens, const Cuts& cuts = {})
      : x_(x),
        overlap_(cuts.overlap),
        tokens_{kBatch, tokens, kHeads, kN},
        square_{kBatch, kHeads, kN, kN},
        saved_({kBatch, kHeads, wkv7_saved_states(tokens), kN, kN}),
        bf16_saved_({kBatch, kHeads, wkv7_saved_states(tokens), kN, kN}),
        starts_({kBatch, tokens}) {
    for (int64_t row = 0; row < kBatch; ++row) {
      for (const int64_t t : cuts.starts[row]) {
        const int64_t token = t < 0 ? tokens + t : t;
        if (token < 0 || token >= tokens) continue;
        starts_[row * tokens + token] = 1;
        some_start_ = true;
      }
    }
  }
  // Starts are given even where there are none.
  void give_starts() { some_start_ = true; }

  // `added`: whether there is a bonus, and dv starts from the operand of this name.
  Numbers forward_and_backward(const Backend& ops, const Ends& ends, bool added) {
    const bool narrow_states =
        ops.saves_bf16_states != nullptr &&
        ops.saves_bf16_states(kDTypeOf<T>, kN, tile_, wkv7_before_overlap(tokens_[1], overlap_));
    const Tensor states = narrow_states ? bf16_saved_.view() : saved_.view();
    ops.wkv7_forward({}, {.in = sequence(),
                          .s_in = ends.s_in ? wide("s_in", square_) : Tensor{},
                          .m = maps_.m,
                          .b = maps_.b,
                          .y = narrow("y"),
                          .s_out = ends.s_out ? wide("s_out", square_) : Tensor{},
                          .s_saved = states});
    if (!added) x_.erase("dv");
    Wkv7Bonus bonus;
    if (added) bonus = {wide("dbonus", {kBatch, tokens_[1], kHeads}), wide("r_k", {kHeads, kN})};
    Owned<Acc> scratch({1, wkv7_backward_scratch(kN)});
    ops.wkv7_backward({}, {.in = sequence(),
                           .s_saved = states,
                           .dy = narrow("dy"),
                           .ds_out = ends.ds_out ? wide("ds_out", square_) : Tensor{},
                           .m = maps_.m,
                           .c = maps_.c,
                           .bonus = bonus,
                           .dr = narrow("dr"),
                           .dk = narrow("dk"),
                           .dv = narrow("dv"),
                           .da = narrow("da"),
                           .db = narrow("db"),
                           .dw_raw = narrow("dw_raw"),
                           .ds_in = ends.ds_in ? wide("ds_in", square_) : Tensor{},
                           .scratch = scratch.view()});
    Numbers results;
    for (const char* name : {"y", "dr", "dw_raw", "dk", "dv", "da", "db"}) {
      results[name] = doubles(narrow_.at(name).view());
    }
    for (const char* name : {"s_out", "ds_in"}) {
      if (wide_.contains(name)) results[name] = doubles(wide_.at(name).view());
    }
    return results;
  }
  // With the maps of all tokens as one tile: what forward and backward hand on, and what folds do.
  Numbers with_maps(const Backend& ops) {
    const Shape maps{1, kBatch, kHeads, kN, kN};
    Owned<Acc> m(maps), b(maps), c(maps);
    ops.wkv7_map({}, {sequence(), 0, 1, m.view(), b.view()});
    ops.wkv7_map_backward({}, {sequence(), narrow("dy"), 0, 1, c.view()});
    // Not quite the recurrence's, so that it shows who did not fold.
    for (Owned<Acc>* add : {&b, &c}) {
      for (Acc& value : add->values()) value += 1;
    }
    maps_ = {m.view(), b.view(), c.view()};
    Numbers results = forward_and_backward(ops, kAll, false);
    maps_ = {};
    results["folded"] = folded(ops, m, b, "s_in");
    results["dfolded"] = folded(ops, m, c, "ds_out");
    return results;
  }
  // Maps of no tile: what was there stays.
  std::vector<double> map_of_nothing(const Backend& ops) {
    const Shape maps{1, kBatch, kHeads, kN, kN};
    Owned<Acc> m(maps), b(maps);
    ops.wkv7_map({}, {sequence(), 0, 0, m.view(), b.view()});
    std::vector<double> both = doubles(m.view());
    const std::vector<double> more = doubles(b.view());
    both.insert(both.end(), more.begin(), more.end());
    return both;
  }
  // With maps of tiles of `tile` tokens, folded at their edges.
  Numbers tiled(const Backend& ops, int64_t tile, const Ends& ends) {
    tile_ = tile;
    const int64_t tiles = wkv7_tiles(tokens_[1], tile);
    const Shape maps{tiles, kBatch, kHeads, kN, kN};
    Owned<Acc> m(maps), b(maps), c(maps);
    ops.wkv7_map({}, {sequence(), 0, tiles, m.view(), b.view()});
    ops.wkv7_map_backward({}, {sequence(), narrow("dy"), 0, tiles, c.view()});
    maps_ = {m.view(), b.view(), c.view()};
    Numbers results = forward_and_backward(ops, ends, false);
    maps_ = {};
    return results;
  }
  // ds_out through the map of all tokens.
  std::vector<double> mapped_back(const Backend& ops) {
    const Shape maps{1, kBatch, kHeads, kN, kN};
    Owned<Acc> m(maps), b(maps), c(maps);
    ops.wkv7_map({}, {sequence(), 0, 1, m.view(), b.view()});
    ops.wkv7_map_backward({}, {sequence(), narrow("dy"), 0, 1, c.view()});
    return folded(ops, m, c, "ds_out");
  }
  // s_in through the map of all tokens.
  std::vector<double> mapped(const Backend& ops) {
    const Shape maps{1, kBatch, kHeads, kN, kN};
    Owned<Acc> m(maps), b(maps);
    ops.wkv7_map({}, {sequence(), 0, 1, m.view(), b.view()});
    return folded(ops, m, b, "s_in");
  }

 private:
  // What enters at an end, through a map of all tokens.
  std::vector<double> folded(const Backend& ops, Owned<Acc>& m, Owned<Acc>& add,
                             const std::string& from) {
    Owned<Acc> out(square_);
    ops.wkv7_fold({}, {.m = m.view(),
                       .add = add.view(),
                       .first = 0,
                       .end = 1,
                       .transposed = from == "ds_out",
                       .from = wide(from, square_),
                       .out = out.view()});
    return doubles(out.view());
  }
  Wkv7Sequence sequence() {
    return {.r = narrow("r"),
            .k = narrow("k"),
            .v = narrow("v"),
            .a = narrow("a"),
            .b = narrow("b"),
            .w_raw = narrow("w_raw"),
            .w0 = wide("w0", {kHeads, kN}),
            .starts = some_start_ ? starts_.view() : Tensor{},
            .tile = tile_,
            .overlap = overlap_};
  }
  template <class U>
  Tensor tensor(std::map<std::string, Owned<U>>& all, const std::string& name, const Shape& shape) {
    if (!all.contains(name)) {
      all[name] = Owned<U>(shape);
      if (x_.contains(name)) assign(all[name].view(), x_.at(name));
    }
    return all[name].view();
  }
  Tensor narrow(const std::string& name) { return tensor(narrow_, name, tokens_); }
  Tensor wide(const std::string& name, const Shape& shape) { return tensor(wide_, name, shape); }

  struct Maps {
    Tensor m = {}, b = {}, c = {};
  };

  Numbers x_;
  Maps maps_;  // for forward and backward
  int64_t tile_ = 0, overlap_;
  Shape tokens_, square_;
  std::map<std::string, Owned<T>> narrow_;
  std::map<std::string, Owned<Acc>> wide_;
  Owned<Acc> saved_;
  Owned<bf16> bf16_saved_;
  Owned<int32_t> starts_;
  bool some_start_ = false;
};

// One token: all of a head's y share the rounding of one product r k, so that with few heads their
// error is now and then above what that of many tokens averages to.
inline double limit(const std::string& name, Keys keys, int64_t tokens) {
  if (name == "y" && tokens == 1) return tolerance::kBf16Gradient;
  if (name == "y" || name == "s_out") return tolerance::kBf16Output;
  const bool hard = keys != Keys::kRandom && (name == "da" || name == "db");
  return hard ? tolerance::kBf16RepeatedKeys : tolerance::kBf16Gradient;
}

}  // namespace rwkv::test::chunks
