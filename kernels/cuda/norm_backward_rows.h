// Backward through layer norm, alone or with the token shift that follows it: a row of gradients as
// kernels read it, and what it gives. Threads have K channels that follow one another.
#pragma once

#include "kernels/cuda/norm_ops.h"
#include "kernels/cuda/token_sums.h"

namespace rwkv::cuda {

// kMixes: of the shift; 0: none follows, and `dout` is what comes in.
template <class T, int K, int kMixes>
struct NormBackInput {
  static constexpr int kKept = kMixes == 0 ? 1 : kMixes;
  static constexpr int kSums = kMixes + 2;  // over tokens: of the mixes, then of weight and bias
  // Six mixes of four channels are more than there are registers for: they are read again for each
  // row, out of the cache.
  static constexpr bool kHoldsMixes = kMixes < kMaxMixes || K < 4;

  const T* x;
  const float *weight, *bias, *mean, *rstd;
  const T* dout;
  ShiftEdges edges;
  MixGradients<T> gradients;
  const float* from_right;  // nullptr: nothing comes
  int64_t at, rows, width;

  explicit NormBackInput(const NormShiftBackward& op)
      : x(in<T>(op.norm.x)),
        weight(in<float>(op.norm.weight)),
        bias(in<float>(op.norm.bias)),
        mean(in<float>(op.norm.mean)),
        rstd(in<float>(op.norm.rstd)),
        dout(in<T>(op.norm.dout)),
        from_right(in<float>(op.shift.dhalo_out)),
        at(op.shift.at),
        width(op.norm.weight.elements()) {
    rows = op.norm.x.elements() / width;
    if constexpr (kMixes > 0) {
      edges = ShiftEdges(op.shift);
      gradients = MixGradients<T>(op.shift);
    }
  }

  // Of the parameters.
  struct Channels {
    float by[K], plus[K], mix[kHoldsMixes ? kKept : 1][K];

    RWKV_DEVICE Channels(const NormBackInput& of, int64_t c) {
      load_run(of.weight + c, by);
      load_run(of.bias + c, plus);
      if constexpr (kHoldsMixes) {
        for (int m = 0; m < kMixes; ++m) load_run(of.gradients.mix[m] + c, mix[m]);
      }
    }
  };

 private:
  // Normalised, and with weight and bias as it was stored.
  struct NormedRow {
    float n[K] = {}, u[K] = {};
  };
  // A row as it lies in memory; ahead of `least`, and of the first one, there is none.
  struct Raw {
    Run<T, K> x{};
    float mean = 0, rstd = 0;

    Raw() = default;
    RWKV_DEVICE Raw(const NormBackInput& of, int64_t r, int64_t c, int64_t least) {
      if (r < 0 || r < least) return;
      x = raw_run<K>(of.x + r * of.width + c);
      mean = of.mean[r];
      rstd = of.rstd[r];
    }
    RWKV_DEVICE NormedRow normed(const Channels& p) const {
      NormedRow row;
      unpack(x, row.n);
      for (int j = 0; j < K; ++j) {
        row.n[j] = (row.n[j] - mean) * rstd;
        if constexpr (kMixes > 0) row.u[j] = as_stored<T>(row.n[j] * p.by[j] + p.plus[j]);
      }
      return row;
    }
  };
  // Of mix m, or what comes in where there are none.
  RWKV_DEVICE Run<T, K> gradient(int m, int64_t r, int64_t c, int64_t least) const {
    if (r < least) return {};
    return raw_run<K>((kMixes == 0 ? dout : gradients.dout[m]) + r * width + c);
  }
  RWKV_DEVICE void mix_of(const Channels& p, int m, int64_t c, float (&mix)[K]) const {
    if constexpr (kHoldsMixes) {
      for (int j = 0; j < K; ++j) mix[j] = p.mix[m][j];
    } else {
      load_run(gradients.mix[m] + device::opaque(c), mix);
    }
  }

  // What the row behind a slab gives to the slab's last one.
  RWKV_DEVICE void enter(const ShiftEdges::Place& place, int64_t c, const Channels& p,
                         float (&carry)[K]) const {
    if (place.row >= rows || edges.is_edge(place)) return;
    for (int m = 0; m < kMixes; ++m) {
      float d[K], mix[K];
      unpack(gradient(m, place.row, c, 0), d);
      mix_of(p, m, c, mix);
      for (int j = 0; j < K; ++j) carry[j] += d[j] * mix[j];
    }
  }

  // The row before less this one: what a mix's gradient is a product with.
  RWKV_DEVICE void differences(const ShiftEdges::Place& place, int64_t c, const NormedRow& now,
                               const NormedRow& before, float (&difference)[K]) const {
    for (int j = 0; j < K; ++j) difference[j] = before.u[j];
    if (edges.is_edge(place)) {
      for (int j = 0; j < K; ++j) difference[j] = edges.before(place, c + j);
    }
    for (int j = 0; j < K; ++j) difference[j] -= now.u[j];
  }

  // `carry`: in, what the row behind gives; out, what goes to the row before.
  RWKV_DEVICE void through_mixes(const ShiftEdges::Place& place, int64_t c, const float (&all)[K],
                                 const float (&left)[K], float (&carry)[K], float (&to)[K]) const {
    const bool handed = from_right != nullptr && place.token == at, cut = edges.is_edge(place);
    for (int j = 0; j < K; ++j) {
      to[j] = all[j] - left[j] + carry[j];
      if (handed) to[j] += from_right[int64_t{place.sequence} * width + c + j];
      to[j] = as_stored<T>(to[j]);
      carry[j] = cut ? 0 : left[j];
    }
  }

  // The first of what is on its way, which is read from memory kAhead rows later.
  template <int kAhead>
  RWKV_DEVICE void next(Run<T, K> (&ahead)[kAhead], int m, int64_t r, int64_t c, int64_t least,
                        float (&d)[K]) const {
    unpack(ahead[0], d);
    for (int i = 0; i + 1 < kAhead; ++i) ahead[i] = ahead[i + 1];
    ahead[kAhead - 1] = gradient(m, r - kAhead, c, least);
  }

 public:
  // A slab's rows from the last to the first, each row of each gradient read once: it gives to
  // itself and to the row before it. What the next kAhead rows need is on its way while one is
  // worked on. done(row, gradient of the norm's output, as stored; the normalised row), on all
  // threads. Those without channels of the row have c = 0.
  template <int kAhead, class Done>
  RWKV_DEVICE void walk(const RowRange& range, int64_t c, const Channels& p, float (&sum)[kSums][K],
                        const Done& done) const {
    const int64_t first = range.begin;
    float carry[K] = {};
    ShiftEdges::Place place{};
    if constexpr (kMixes > 0) {
      place = edges.place(range.end);
      enter(place, c, p, carry);
    }
    NormedRow now = Raw(*this, range.end - 1, c, 0).normed(p);
    Raw x_ahead[kAhead];
    Run<T, K> d_ahead[kKept][kAhead];
    for (int i = 0; i < kAhead; ++i) {
      x_ahead[i] = Raw(*this, range.end - 2 - i, c, first - 1);
      for (int m = 0; m < kKept; ++m) d_ahead[m][i] = gradient(m, range.end - 1 - i, c, first);
    }
    for (int64_t r = range.end - 1; r >= first; --r) {
      const NormedRow before = x_ahead[0].normed(p);
      for (int i = 0; i + 1 < kAhead; ++i) x_ahead[i] = x_ahead[i + 1];
      x_ahead[kAhead - 1] = Raw(*this, r - 1 - kAhead, c, first - 1);
      float to[K];
      if constexpr (kMixes == 0) {
        next(d_ahead[0], 0, r, c, first, to);
      } else {
        place = edges.ahead_of(place);
        float difference[K], all[K] = {}, left[K] = {};
        differences(place, c, now, before, difference);
        for (int m = 0; m < kMixes; ++m) {
          float d[K], mix[K];
          next(d_ahead[m], m, r, c, first, d);
          mix_of(p, m, c, mix);
          for (int j = 0; j < K; ++j) {
            all[j] += d[j];
            left[j] += d[j] * mix[j];
            sum[m][j] += d[j] * difference[j];
          }
        }
        through_mixes(place, c, all, left, carry, to);
      }
      for (int j = 0; j < K; ++j) {
        sum[kMixes][j] += to[j] * now.n[j];
        sum[kMixes + 1][j] += to[j];
      }
      done(r, to, now.n);
      now = before;
    }
  }
};

}  // namespace rwkv::cuda
