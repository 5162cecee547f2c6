#pragma once

#include "core/base/stream.h"
#include "kernels/reference/scalar.h"
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
  const int64_t width = op.w0.elements(), rows = op.key.elements() / width, n_head = op.head_size;
  const S *decay = op.decay.as<S>(), *iclr = op.iclr.as<S>(), *gate = op.value_gate.as<S>();
  const S *key = op.key.as<S>(), *value = op.value.as<S>(), *first = op.v_first.as<S>();
  const S *w0 = op.w0.as<S>(), *a0 = op.a0.as<S>(), *v0 = op.v0.as<S>();
  const S *k_k = op.k_k.as<S>(), *k_a = op.k_a.as<S>();
  S *w_raw = op.w_raw.as<S>(), *k = op.k.as<S>(), *v = op.v.as<S>();
  S *a = op.a.as<S>(), *b = op.b.as<S>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t head = 0; head < width; head += n_head) {
      bool clipped;
      const S norm = kappa_norm(key + r * width + head, k_k + head, n_head, &clipped);
      for (int64_t c = head; c < head + n_head; ++c) {
        const int64_t i = r * width + c;
        const S rate = sigmoid(a0[c] + iclr[i]);
        const S kappa = key[i] * k_k[c] / norm;
        w_raw[i] = w0[c] + decay[i];
        v[i] = gate == nullptr ? value[i]
                               : value[i] + (first[i] - value[i]) * sigmoid(v0[c] + gate[i]);
        k[i] = key[i] * (S(1) + (rate - S(1)) * k_a[c]);
        a[i] = -kappa;
        b[i] = kappa * rate;
      }
    }
  }
}

template <class S>
void time_mix_in_backward(const Stream&, const TimeMixInBackward& op) {
  const int64_t width = op.a0.elements(), rows = op.key.elements() / width, n_head = op.head_size;
  const S *iclr = op.iclr.as<S>(), *gate = op.value_gate.as<S>(), *key = op.key.as<S>();
  const S *value = op.value.as<S>(), *first = op.v_first.as<S>();
  const S *a0 = op.a0.as<S>(), *v0 = op.v0.as<S>(), *k_k = op.k_k.as<S>(), *k_a = op.k_a.as<S>();
  const S *dw_raw = op.dw_raw.as<S>(), *dk = op.dk.as<S>(), *dv = op.dv.as<S>();
  const S *da = op.da.as<S>(), *db = op.db.as<S>();
  S *diclr = op.diclr.as<S>(), *dgate = op.dvalue_gate.as<S>(), *dkey = op.dkey.as<S>();
  S *dvalue = op.dvalue.as<S>(), *dfirst = op.dv_first.as<S>(), *dw0 = op.dw0.as<S>();
  S *da0 = op.da0.as<S>(), *dk_k = op.dk_k.as<S>(), *dk_a = op.dk_a.as<S>(), *dv0 = op.dv0.as<S>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t head = 0; head < width; head += n_head) {
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
        da0[c] += dpre;
        dw0[c] += dw_raw[i];
        dkey[i] = dk[i] * (S(1) + (rate - S(1)) * k_a[c]) + dscaled * k_k[c];
        dk_k[c] += dscaled * key[i];
        dk_a[c] += dk[i] * key[i] * (rate - S(1));
        if (gate == nullptr) {
          dvalue[i] = dv[i] + dfirst[i];
        } else {
          const S mix = sigmoid(v0[c] + gate[i]);
          const S dmix = dv[i] * (first[i] - value[i]) * mix * (S(1) - mix);
          dvalue[i] = dv[i] * (S(1) - mix);
          dfirst[i] += dv[i] * mix;
          dgate[i] = dmix;
          dv0[c] += dmix;
        }
      }
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

template <class S>
void time_mix_out_backward(const Stream&, const TimeMixOutBackward& op) {
  const int64_t width = op.ln_weight.elements(), rows = op.y.elements() / width;
  const int64_t n_head = op.head_size;
  const S *y = op.y.as<S>(), *r = op.r.as<S>(), *k = op.k.as<S>(), *v = op.v.as<S>();
  const S *g = op.g.as<S>(), *weight = op.ln_weight.as<S>(), *bias = op.ln_bias.as<S>();
  const S *r_k = op.r_k.as<S>(), *dz = op.dz.as<S>();
  S *dy = op.dy.as<S>(), *dr = op.dr.as<S>(), *dk = op.dk.as<S>(), *dv = op.dv.as<S>();
  S *dg = op.dg.as<S>(), *dweight = op.dln_weight.as<S>(), *dbias = op.dln_bias.as<S>();
  S* dr_k = op.dr_k.as<S>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < width; head += n_head) {
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
        dbonus += d * v[i];
        dv[i] = d * bonus;
        dweight[c] += d * n;
        dbias[c] += d;
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
        dr[i] = dbonus * k[i] * r_k[c];
        dk[i] = dbonus * r[i] * r_k[c];
        dr_k[c] += dbonus * r[i] * k[i];
      }
    }
  }
}

}  // namespace rwkv::reference
