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
  // Six mixes of four channels are more than there are registers for: they and the bias are read
  // again for each row, out of the cache.
  static constexpr bool kHolds = kMixes < kMaxMixes || K < 4;

  static constexpr int kBias = kKept;

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
    float weight[K], held[kHolds ? kKept + 1 : 1][K];  // of the mixes, and the bias

    RWKV_DEVICE Channels(const NormBackInput& of, int64_t c) {
      load_run(of.weight + c, weight);
      if constexpr (kHolds) {
        for (int m = 0; m < kMixes; ++m) load_run(of.gradients.mix[m] + c, held[m]);
        load_run(of.bias + c, held[kBias]);
      }
    }
  };

  // Normalised, and with weight and bias as it was stored.
  struct NormedRow {
    float n[K] = {}, u[K] = {}, rstd = 0;
  };

 private:
  // A row as it lies in memory.
  struct Raw {
    Run<T, K> x;
    float mean, rstd;
  };
  RWKV_DEVICE Raw raw(int64_t r, int64_t c) const {
    return {raw_run<K>(x + r * width + c), mean[r], rstd[r]};
  }

  // Of mix m, or what comes in where there are none. i: of the first of the K elements.
  RWKV_DEVICE Run<T, K> gradient(int m, int64_t i) const {
    return raw_run<K>((kMixes == 0 ? dout : gradients.dout[m]) + i);
  }
  // Of a mix, or the bias.
  RWKV_DEVICE void channels_of(const Channels& p, int which, int64_t c, float (&to)[K]) const {
    if constexpr (kHolds) {
      for (int j = 0; j < K; ++j) to[j] = p.held[which][j];
    } else {
      load_run((which == kBias ? bias : gradients.mix[which]) + device::opaque(c), to);
    }
  }
  RWKV_DEVICE NormedRow normed(const Raw& of, const Channels& p, int64_t c) const {
    NormedRow row;
    row.rstd = of.rstd;
    unpack(of.x, row.n);
    for (int j = 0; j < K; ++j) row.n[j] = (row.n[j] - of.mean) * of.rstd;
    if constexpr (kMixes > 0) {
      float plus[K];
      channels_of(p, kBias, c, plus);
      for (int j = 0; j < K; ++j) row.u[j] = as_stored<T>(row.n[j] * p.weight[j] + plus[j]);
    }
    return row;
  }

  // What the row behind a slab gives to the slab's last one.
  RWKV_DEVICE void enter(const ShiftEdges::Place& place, int64_t c, const Channels& p,
                         float (&carry)[K]) const {
    if (place.row >= rows || edges.is_edge(place)) return;
    for (int m = 0; m < kMixes; ++m) {
      float d[K], mix[K];
      unpack(gradient(m, place.row * width + c), d);
      channels_of(p, m, c, mix);
      for (int j = 0; j < K; ++j) carry[j] += d[j] * mix[j];
    }
  }

  // Of a row through the mixes: `carry` is, in, what the row behind gives, and, out, what goes to
  // the row before. next(m, d): the gradient of mix m.
  template <class Next>
  RWKV_DEVICE void through_mixes(const ShiftEdges::Place& place, int64_t c, const Channels& p,
                                 const NormedRow& now, const NormedRow& before, const Next& next,
                                 float (&carry)[K], float (&to)[K], float (&sum)[kSums][K]) const {
    const bool document = edges.starts_at(place.row), edge = document || place.token == 0;
    float difference[K], all[K] = {}, left[K] = {};
    for (int j = 0; j < K; ++j) difference[j] = before.u[j];
    if (edge) {
      const float* halo = edges.halo + int64_t{place.sequence} * width + c;
      for (int j = 0; j < K; ++j) difference[j] = document ? 0 : halo[j];
    }
    for (int j = 0; j < K; ++j) difference[j] -= now.u[j];
    for (int m = 0; m < kMixes; ++m) {
      float d[K], mix[K];
      next(m, d);
      channels_of(p, m, c, mix);
      for (int j = 0; j < K; ++j) {
        all[j] += d[j];
        left[j] += d[j] * mix[j];
        sum[m][j] += d[j] * difference[j];
      }
    }
    const bool handed = from_right != nullptr && place.token == at;
    for (int j = 0; j < K; ++j) {
      to[j] = all[j] - left[j] + carry[j];
      if (handed) to[j] += from_right[int64_t{place.sequence} * width + c + j];
      to[j] = as_stored<T>(to[j]);
      carry[j] = edge ? 0 : left[j];
    }
  }

 public:
  // A slab's rows from the last to the first, each row of each gradient read once: it gives to
  // itself and to the row before it. What the next kAhead rows need is on its way while one is
  // worked on, in slots that take turns: to move what is read is to wait for it. Ahead of the first
  // row that one is read again, and not used.
  //   fetch(i) reads what `done` wants of a row early, done(row, i, that, gradient of the norm's
  //   output as stored, the normalised row) ends it; i: of the first of its K elements.
  // Both on all threads; those without channels of the row have c = 0.
  template <int kAhead, class Fetch, class Done>
  RWKV_DEVICE void walk(const RowRange& range, int64_t c, const Channels& p, float (&sum)[kSums][K],
                        const Fetch& fetch, const Done& done) const {
    if (range.begin == range.end) return;
    const int64_t first = range.begin, least = first * width + c;
    const int64_t least_x = first > 0 ? first - 1 : 0;
    float carry[K] = {};
    ShiftEdges::Place place{};
    if constexpr (kMixes > 0) {
      place = edges.place(range.end);
      enter(place, c, p, carry);
    }
    NormedRow now = normed(raw(range.end - 1, c), p, c);
    int64_t i = (range.end - 1) * width + c;  // of the row that is worked on
    Raw x_ahead[kAhead];
    Run<T, K> d_ahead[kAhead][kKept];
    for (int s = 0; s < kAhead; ++s) {
      const int64_t r = range.end - 1 - s, from = r < first ? least : r * width + c;
      x_ahead[s] = raw(r - 1 < least_x ? least_x : r - 1, c);
      for (int m = 0; m < kKept; ++m) d_ahead[s][m] = gradient(m, from);
    }
    for (int64_t r = range.end - 1; r >= first;) {
      RWKV_UNROLL
      for (int s = 0; s < kAhead; ++s) {
        if (r < first) break;
        const auto fetched = fetch(i);
        const NormedRow before = normed(x_ahead[s], p, c);
        const int64_t later = r - kAhead < first ? least : i - kAhead * width;
        const int64_t x_later = r - 1 - kAhead;
        x_ahead[s] = raw(x_later < least_x ? least_x : x_later, c);
        const auto next = [&](int m, float(&d)[K]) {
          unpack(d_ahead[s][m], d);
          d_ahead[s][m] = gradient(m, later);
        };
        float to[K];
        if constexpr (kMixes == 0) {
          next(0, to);
        } else {
          place = edges.ahead_of(place);
          through_mixes(place, c, p, now, before, next, carry, to, sum);
        }
        for (int j = 0; j < K; ++j) {
          sum[kMixes][j] += to[j] * now.n[j];
          sum[kMixes + 1][j] += to[j];
        }
        done(r, i, fetched, to, now);
        now = before;
        --r;
        i -= width;
      }
    }
  }
};

}  // namespace rwkv::cuda
