#pragma once

#include "core/base/stream.h"
#include "kernels/reference/scalar.h"
#include "kernels/reference/token_sum.h"
#include "kernels/time_mix.h"

namespace rwkv::reference {

inline constexpr double kSmallestNorm = 1e-12;

// The norm that divides key k_k in one head; `clipped` when the divisor is the constant.
template <class S>
S kappa_norm(const S* key, const S* k_k, int64_t head_size, bool* clipped) {
  S sum = 0;
  for (int64_t n = 0; n < head_size; ++n) sum += key[n] * k_k[n] * key[n] * k_k[n];
  *clipped = real_part(sum) <= kSmallestNorm * kSmallestNorm;
  return *clipped ? S(kSmallestNorm) : std::sqrt(sum);
}

template <class S>
void time_mix_in_forward(const Stream&, const TimeMixInForward& op) {
  const int64_t width = op.a0.elements(), rows = op.key.elements() / width, n_head = op.head_size;
  const S *iclr = op.iclr.as<S>(), *gate = op.value_gate.as<S>();
  const S *key = op.key.as<S>(), *value = op.value.as<S>(), *first = op.v_first.as<S>();
  const S *a0 = op.a0.as<S>(), *v0 = op.v0.as<S>();
  const S *k_k = op.k_k.as<S>(), *k_a = op.k_a.as<S>();
  S *k = op.k.as<S>(), *v = op.v.as<S>();
  S *a = op.a.as<S>(), *b = op.b.as<S>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t head = 0; head < width; head += n_head) {
      bool clipped;
      const S norm = kappa_norm(key + r * width + head, k_k + head, n_head, &clipped);
      for (int64_t c = head; c < head + n_head; ++c) {
        const int64_t i = r * width + c;
        const S rate = sigmoid(a0[c] + iclr[i]);
        const S kappa = key[i] * k_k[c] / norm;
        v[i] = gate == nullptr ? value[i]
                               : value[i] + (first[i] - value[i]) * sigmoid(v0[c] + gate[i]);
        k[i] = key[i] * (S(1) + (rate - S(1)) * k_a[c]);
        a[i] = -kappa;
        b[i] = kappa * rate;
      }
    }
  }
}

// The widest head that the recipe allows.
inline constexpr int64_t kMaxHead = 256;

// Partials of one leaf and head, one number a channel.
template <class S>
struct HeadPartial {
  S of[kMaxHead] = {};

  void flush(const TokenSum& to, int64_t head, int64_t n) {
    for (int64_t c = 0; c < n; ++c) {
      add_partial(to, head + c, of[c]);
      of[c] = 0;
    }
  }
};

// One row of one head: dkey, diclr, and what the row adds to the parameters' gradients.
template <class S>
void key_backward_row(const TimeMixInBackward& op, int64_t r, int64_t head, HeadPartial<S>& w0,
                      HeadPartial<S>& a0_sum, HeadPartial<S>& k_k_sum, HeadPartial<S>& k_a_sum) {
  const int64_t width = op.a0.elements(), n_head = op.head_size;
  const S *iclr = op.iclr.as<S>(), *key = op.key.as<S>(), *a0 = op.a0.as<S>();
  const S *k_k = op.k_k.as<S>(), *k_a = op.k_a.as<S>(), *dw_raw = op.dw_raw.as<S>();
  const S *dk = op.dk.as<S>(), *da = op.da.as<S>(), *db = op.db.as<S>();
  S *diclr = op.diclr.as<S>(), *dkey = op.dkey.as<S>();
  bool clipped;
  const S norm = kappa_norm(key + r * width + head, k_k + head, n_head, &clipped);
  S along = 0;  // kappa . dkappa: what normalisation removes
  for (int64_t c = head; c < head + n_head; ++c) {
    const int64_t i = r * width + c;
    const S kappa = key[i] * k_k[c] / norm;
    if (!clipped) along += kappa * (db[i] * sigmoid(a0[c] + iclr[i]) - da[i]);
  }
  for (int64_t c = head; c < head + n_head; ++c) {
    const int64_t i = r * width + c;
    const S rate = sigmoid(a0[c] + iclr[i]);
    const S kappa = key[i] * k_k[c] / norm;
    const S dkappa = db[i] * rate - da[i];
    const S dscaled = (dkappa - kappa * along) / norm;  // gradient of key k_k
    const S drate = dk[i] * key[i] * k_a[c] + db[i] * kappa;
    const S dpre = drate * rate * (S(1) - rate);
    diclr[i] = dpre;
    dkey[i] = dk[i] * (S(1) + (rate - S(1)) * k_a[c]) + dscaled * k_k[c];
    w0.of[c - head] += dw_raw[i];
    a0_sum.of[c - head] += dpre;
    k_k_sum.of[c - head] += dscaled * key[i];
    k_a_sum.of[c - head] += dk[i] * key[i] * (rate - S(1));
  }
}

// The value residual of one row and head.
template <class S>
void value_backward_row(const TimeMixInBackward& op, int64_t r, int64_t head,
                        HeadPartial<S>& v0_sum) {
  const int64_t width = op.a0.elements();
  const S *gate = op.value_gate.as<S>(), *value = op.value.as<S>(), *first = op.v_first.as<S>();
  const S *v0 = op.v0.as<S>(), *dv = op.dv.as<S>();
  S *dgate = op.dvalue_gate.as<S>(), *dvalue = op.dvalue.as<S>(), *dfirst = op.dv_first.as<S>();
  for (int64_t c = head; c < head + op.head_size; ++c) {
    const int64_t i = r * width + c;
    if (gate == nullptr) {
      dvalue[i] = dv[i] + dfirst[i];
      continue;
    }
    const S mix = sigmoid(v0[c] + gate[i]);
    const S dmix = dv[i] * (first[i] - value[i]) * mix * (S(1) - mix);
    dvalue[i] = dv[i] * (S(1) - mix);
    dfirst[i] += dv[i] * mix;
    dgate[i] = dmix;
    v0_sum.of[c - head] += dmix;
  }
}

template <class S>
void time_mix_in_backward(const Stream&, const TimeMixInBackward& op) {
  const int64_t width = op.a0.elements(), rows = op.key.elements() / width, n = op.head_size;
  for (int64_t head = 0; head < width; head += n) {
    HeadPartial<S> w0, a0, k_k, k_a, v0;
    for (int64_t begin = 0; begin < rows; begin = op.leaves.end(begin, rows)) {
      for (int64_t r = begin; r < op.leaves.end(begin, rows); ++r) {
        key_backward_row(op, r, head, w0, a0, k_k, k_a);
        value_backward_row(op, r, head, v0);
      }
      w0.flush(op.dw0, head, n);
      a0.flush(op.da0, head, n);
      k_k.flush(op.dk_k, head, n);
      k_a.flush(op.dk_a, head, n);
      if (!op.dv0.empty()) v0.flush(op.dv0, head, n);
    }
  }
}

// Mean and reciprocal deviation of one head.
template <class S>
void head_statistics(const S* y, int64_t n, double eps, S* mean, S* rstd) {
  *mean = 0;
  S var = 0;
  for (int64_t i = 0; i < n; ++i) *mean += y[i];
  *mean /= S(static_cast<double>(n));
  for (int64_t i = 0; i < n; ++i) var += (y[i] - *mean) * (y[i] - *mean);
  *rstd = S(1) / std::sqrt(var / S(static_cast<double>(n)) + S(eps));
}

template <class S>
void time_mix_out_forward(const Stream&, const TimeMixOutForward& op) {
  const int64_t width = op.ln_weight.elements(), rows = op.y.elements() / width;
  const int64_t n_head = op.head_size;
  const S *y = op.y.as<S>(), *r = op.r.as<S>(), *k = op.k.as<S>(), *v = op.v.as<S>();
  const S *g = op.g.as<S>(), *weight = op.ln_weight.as<S>(), *bias = op.ln_bias.as<S>();
  const S* r_k = op.r_k.as<S>();
  S* z = op.z.as<S>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < width; head += n_head) {
      S mean, rstd, bonus = 0;
      head_statistics(y + row * width + head, n_head, op.eps, &mean, &rstd);
      for (int64_t c = head; c < head + n_head; ++c) {
        bonus += r[row * width + c] * k[row * width + c] * r_k[c];
      }
      for (int64_t c = head; c < head + n_head; ++c) {
        const int64_t i = row * width + c;
        z[i] = ((y[i] - mean) * rstd * weight[c] + bias[c] + bonus * v[i]) * g[i];
      }
    }
  }
}

// One row of one head of the output's backward pass.
template <class S>
void time_mix_out_backward_row(const TimeMixOutBackward& op, int64_t row, int64_t head,
                               HeadPartial<S>& dweight, HeadPartial<S>& dbias,
                               HeadPartial<S>& dr_k) {
  const int64_t width = op.ln_weight.elements(), n_head = op.head_size;
  const S *y = op.y.as<S>(), *r = op.r.as<S>(), *k = op.k.as<S>(), *v = op.v.as<S>();
  const S *g = op.g.as<S>(), *weight = op.ln_weight.as<S>(), *bias = op.ln_bias.as<S>();
  const S *r_k = op.r_k.as<S>(), *dz = op.dz.as<S>();
  S *dy = op.dy.as<S>(), *dv = op.dv.as<S>(), *dg = op.dg.as<S>();
  S mean, rstd, bonus = 0, dbonus = 0, mean_g = 0, mean_gn = 0;
  head_statistics(y + row * width + head, n_head, op.eps, &mean, &rstd);
  for (int64_t c = head; c < head + n_head; ++c) {
    const int64_t i = row * width + c;
    bonus += r[i] * k[i] * r_k[c];
  }
  for (int64_t c = head; c < head + n_head; ++c) {
    const int64_t i = row * width + c;
    const S n = (y[i] - mean) * rstd, before_gate = n * weight[c] + bias[c] + bonus * v[i];
    const S d = dz[i] * g[i];
    dg[i] = dz[i] * before_gate;
    if (!op.z.empty()) op.z.as<S>()[i] = before_gate * g[i];
    dbonus += d * v[i];
    dv[i] = d * bonus;
    dweight.of[c - head] += d * n;
    dbias.of[c - head] += d;
    mean_g += d * weight[c];
    mean_gn += d * weight[c] * n;
    dy[i] = d * weight[c];
  }
  mean_g /= S(static_cast<double>(n_head));
  mean_gn /= S(static_cast<double>(n_head));
  for (int64_t c = head; c < head + n_head; ++c) {
    const int64_t i = row * width + c;
    const S n = (y[i] - mean) * rstd;
    dy[i] = rstd * (dy[i] - mean_g - n * mean_gn);
    dr_k.of[c - head] += dbonus * r[i] * k[i];
  }
  op.dbonus.as<S>()[(row * width + head) / n_head] = dbonus;
}

template <class S>
void time_mix_out_backward(const Stream&, const TimeMixOutBackward& op) {
  const int64_t width = op.ln_weight.elements(), rows = op.y.elements() / width, n = op.head_size;
  for (int64_t head = 0; head < width; head += n) {
    HeadPartial<S> dweight, dbias, dr_k;
    for (int64_t begin = 0; begin < rows; begin = op.leaves.end(begin, rows)) {
      for (int64_t row = begin; row < op.leaves.end(begin, rows); ++row) {
        time_mix_out_backward_row(op, row, head, dweight, dbias, dr_k);
      }
      dweight.flush(op.dln_weight, head, n);
      dbias.flush(op.dln_bias, head, n);
      dr_k.flush(op.dr_k, head, n);
    }
  }
}

}  // namespace rwkv::reference
