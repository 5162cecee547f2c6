// Time mix around the recurrence, head by head. Backward passes give whole heads to threads, so
// that parameter gradients are added up in row order whatever the number of threads.
#pragma once

#include <cmath>

#include "kernels/cpu/isa/token_sum.h"
#include "kernels/cpu/isa/vector.h"
#include "kernels/time_mix.h"

namespace rwkv::cpu::RWKV_ISA {

inline constexpr int64_t kMaxHead = 256;  // the widest head that the recipe allows

// 1 / max(norm of key k_k, 1e-12) of one head; 0 for *keeps when the divisor is the constant.
template <class T>
[[gnu::always_inline]] inline float inverse_norm(const T* key, const float* k_k, int64_t n,
                                                 float* keeps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; ++c) {
    const float x = load(key[c]) * k_k[c];
    sum += x * x;
  }
  *keeps = sum > 1e-24f ? 1.0f : 0.0f;
  return sum > 1e-24f ? 1.0f / std::sqrt(sum) : 1e12f;
}

template <class T>
void time_mix_in_forward(const Stream& stream, const TimeMixInForward& op) {
  const int64_t width = op.w0.elements(), rows = op.key.elements() / width, n = op.head_size;
  const float *decay = op.decay.as<float>(), *w0 = op.w0.as<float>(), *a0 = op.a0.as<float>();
  const float *v0 = op.v0.as<float>(), *k_k = op.k_k.as<float>(), *k_a = op.k_a.as<float>();
  const T *iclr = op.iclr.as<T>(), *gate = op.value_gate.as<T>(), *key = op.key.as<T>();
  const T *value = op.value.as<T>(), *first = op.v_first.as<T>();
  float* w_raw = op.w_raw.as<float>();
  T *k = op.k.as<T>(), *v = op.v.as<T>(), *a = op.a.as<T>(), *b = op.b.as<T>();
  for_blocks(stream, rows, kRowBlock, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t head = 0; head < width; head += n) {
        const int64_t o = r * width + head;
        float keeps;
        const float inverse = inverse_norm(key + o, k_k + head, n, &keeps);
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) {
          const float rate = sigmoid(a0[head + c] + load(iclr[o + c]));
          const float kappa = load(key[o + c]) * k_k[head + c] * inverse;
          w_raw[o + c] = w0[head + c] + decay[o + c];
          store(k[o + c], load(key[o + c]) * (1.0f + (rate - 1.0f) * k_a[head + c]));
          store(a[o + c], -kappa);
          store(b[o + c], kappa * rate);
        }
        if (gate == nullptr) {
          for (int64_t c = 0; c < n; ++c) v[o + c] = value[o + c];
        } else {
#pragma omp simd
          for (int64_t c = 0; c < n; ++c) {
            const float mix = sigmoid(v0[head + c] + load(gate[o + c]));
            const float own = load(value[o + c]);
            store(v[o + c], own + (load(first[o + c]) - own) * mix);
          }
        }
      }
    }
  });
}

// The value residual of one head over all rows.
template <class T>
void value_residual_backward(const TimeMixInBackward& op, int64_t head) {
  const int64_t width = op.a0.elements(), rows = op.key.elements() / width, n = op.head_size;
  const T *gate = op.value_gate.as<T>(), *value = op.value.as<T>(), *first = op.v_first.as<T>();
  const T* dv = op.dv.as<T>();
  const float* v0 = op.v0.as<float>();
  T *dgate = op.dvalue_gate.as<T>(), *dvalue = op.dvalue.as<T>();
  float* dfirst = op.dv_first.as<float>();
  float dv0[kMaxHead] = {};
  int64_t behind = op.leaves.end(0, rows);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t o = r * width + head;
    if (gate == nullptr) {
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) store(dvalue[o + c], load(dv[o + c]) + dfirst[o + c]);
      continue;
    }
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) {
      const float mix = sigmoid(v0[head + c] + load(gate[o + c])), d = load(dv[o + c]);
      const float dmix = d * (load(first[o + c]) - load(value[o + c])) * mix * (1.0f - mix);
      store(dvalue[o + c], d * (1.0f - mix));
      dfirst[o + c] += d * mix;
      store(dgate[o + c], dmix);
      dv0[c] += dmix;
    }
    if (r + 1 < behind) continue;
    add_partials(op.dv0, head, dv0, n);
    std::memset(dv0, 0, sizeof dv0);
    if (behind < rows) behind = op.leaves.end(behind, rows);
  }
}

// Decay, in-context learning rate and key of one head over all rows.
template <class T>
void key_backward(const TimeMixInBackward& op, int64_t head) {
  const int64_t width = op.a0.elements(), rows = op.key.elements() / width, n = op.head_size;
  const T *iclr = op.iclr.as<T>(), *key = op.key.as<T>(), *dk = op.dk.as<T>();
  const T *da = op.da.as<T>(), *db = op.db.as<T>();
  const float *a0 = op.a0.as<float>() + head, *k_k = op.k_k.as<float>() + head;
  const float *k_a = op.k_a.as<float>() + head, *dw_raw = op.dw_raw.as<float>();
  T *diclr = op.diclr.as<T>(), *dkey = op.dkey.as<T>(), *ddecay = op.ddecay.as<T>();
  float dw0[kMaxHead] = {}, da0[kMaxHead] = {}, dk_k[kMaxHead] = {}, dk_a[kMaxHead] = {};
  int64_t behind = op.leaves.end(0, rows);
  float rates[kMaxHead], kappas[kMaxHead], dkappas[kMaxHead];
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t o = r * width + head;
    float keeps, along = 0;
    const float inverse = inverse_norm(key + o, k_k, n, &keeps);
#pragma omp simd reduction(+ : along)
    for (int64_t c = 0; c < n; ++c) {
      rates[c] = sigmoid(a0[c] + load(iclr[o + c]));
      kappas[c] = load(key[o + c]) * k_k[c] * inverse;
      dkappas[c] = load(db[o + c]) * rates[c] - load(da[o + c]);
      along += kappas[c] * dkappas[c];
    }
    along *= keeps;  // a clipped norm does not depend on the key
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) {
      const float x = load(key[o + c]), d = load(dk[o + c]), rate = rates[c];
      const float dscaled = (dkappas[c] - kappas[c] * along) * inverse;
      const float drate = d * x * k_a[c] + load(db[o + c]) * kappas[c];
      const float dpre = drate * rate * (1.0f - rate);
      store(diclr[o + c], dpre);
      store(dkey[o + c], d * (1.0f + (rate - 1.0f) * k_a[c]) + dscaled * k_k[c]);
      da0[c] += dpre;
      dw0[c] += dw_raw[o + c];
      dk_k[c] += dscaled * x;
      dk_a[c] += d * x * (rate - 1.0f);
    }
    if (ddecay != nullptr) {
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) store(ddecay[o + c], dw_raw[o + c]);
    }
    if (r + 1 < behind) continue;
    add_partials(op.dw0, head, dw0, n);
    add_partials(op.da0, head, da0, n);
    add_partials(op.dk_k, head, dk_k, n);
    add_partials(op.dk_a, head, dk_a, n);
    for (float* sum : {dw0, da0, dk_k, dk_a}) std::memset(sum, 0, kMaxHead * sizeof(float));
    if (behind < rows) behind = op.leaves.end(behind, rows);
  }
}

template <class T>
void time_mix_in_backward(const Stream& stream, const TimeMixInBackward& op) {
  const int64_t n = op.head_size;
  for_blocks(stream, op.a0.elements(), n, [&](int64_t head, int64_t) {
    value_residual_backward<T>(op, head);
    key_backward<T>(op, head);
  });
}

template <class T>
[[gnu::always_inline]] inline void head_statistics(const T* y, int64_t n, float eps, float* mean,
                                                   float* rstd) {
  float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; ++c) sum += load(y[c]);
  const float m = sum / static_cast<float>(n);
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < n; ++c) squares += (load(y[c]) - m) * (load(y[c]) - m);
  *mean = m;
  *rstd = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
}

template <class T>
void time_mix_out_forward(const Stream& stream, const TimeMixOutForward& op) {
  const int64_t width = op.ln_weight.elements(), rows = op.y.elements() / width;
  const int64_t n = op.head_size;
  const T *y = op.y.as<T>(), *r = op.r.as<T>(), *k = op.k.as<T>(), *v = op.v.as<T>();
  const T* g = op.g.as<T>();
  const float *weight = op.ln_weight.as<float>(), *bias = op.ln_bias.as<float>();
  const float* r_k = op.r_k.as<float>();
  T* z = op.z.as<T>();
  const auto eps = static_cast<float>(op.eps);
  for_blocks(stream, rows, kRowBlock, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t head = 0; head < width; head += n) {
        const int64_t o = row * width + head;
        float mean, rstd, bonus = 0;
        head_statistics(y + o, n, eps, &mean, &rstd);
#pragma omp simd reduction(+ : bonus)
        for (int64_t c = 0; c < n; ++c) bonus += load(r[o + c]) * load(k[o + c]) * r_k[head + c];
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) {
          const float normed = (load(y[o + c]) - mean) * rstd * weight[head + c] + bias[head + c];
          store(z[o + c], (normed + bonus * load(v[o + c])) * load(g[o + c]));
        }
      }
    }
  });
}

template <class T>
void time_mix_out_backward_head(const TimeMixOutBackward& op, int64_t head) {
  const int64_t width = op.ln_weight.elements(), rows = op.y.elements() / width;
  const int64_t n = op.head_size;
  const T *y = op.y.as<T>(), *r = op.r.as<T>(), *k = op.k.as<T>(), *v = op.v.as<T>();
  const T *g = op.g.as<T>(), *dz = op.dz.as<T>();
  const float *weight = op.ln_weight.as<float>() + head, *bias = op.ln_bias.as<float>() + head;
  const float* r_k = op.r_k.as<float>() + head;
  T *dy = op.dy.as<T>(), *dr = op.dr.as<T>(), *dk = op.dk.as<T>(), *dv = op.dv.as<T>();
  T *dg = op.dg.as<T>(), *z = op.z.as<T>();
  float dweight[kMaxHead] = {}, dbias[kMaxHead] = {}, dr_k[kMaxHead] = {};
  int64_t behind = op.leaves.end(0, rows);
  const float inverse = 1.0f / static_cast<float>(n);
  float normed[kMaxHead], through[kMaxHead];
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t o = row * width + head;
    float mean, rstd, bonus = 0, dbonus = 0, sum_g = 0, sum_gn = 0;
    head_statistics(y + o, n, static_cast<float>(op.eps), &mean, &rstd);
#pragma omp simd reduction(+ : bonus)
    for (int64_t c = 0; c < n; ++c) bonus += load(r[o + c]) * load(k[o + c]) * r_k[c];
    if (z != nullptr) {
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) {
        const float x = (load(y[o + c]) - mean) * rstd * weight[c] + bias[c];
        store(z[o + c], (x + bonus * load(v[o + c])) * load(g[o + c]));
      }
    }
#pragma omp simd reduction(+ : dbonus, sum_g, sum_gn)
    for (int64_t c = 0; c < n; ++c) {
      const float x = (load(y[o + c]) - mean) * rstd, value = load(v[o + c]);
      const float d_out = load(dz[o + c]), d = d_out * load(g[o + c]);
      store(dg[o + c], d_out * (x * weight[c] + bias[c] + bonus * value));
      store(dv[o + c], d * bonus);
      dweight[c] += d * x;
      dbias[c] += d;
      normed[c] = x;
      through[c] = d * weight[c];
      dbonus += d * value;
      sum_g += d * weight[c];
      sum_gn += d * weight[c] * x;
    }
    const float mean_g = sum_g * inverse, mean_gn = sum_gn * inverse;
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) {
      const float receptance = load(r[o + c]), key = load(k[o + c]);
      store(dy[o + c], rstd * (through[c] - mean_g - normed[c] * mean_gn));
      store(dr[o + c], dbonus * key * r_k[c]);
      store(dk[o + c], dbonus * receptance * r_k[c]);
      dr_k[c] += dbonus * receptance * key;
    }
    if (row + 1 < behind) continue;
    add_partials(op.dln_weight, head, dweight, n);
    add_partials(op.dln_bias, head, dbias, n);
    add_partials(op.dr_k, head, dr_k, n);
    for (float* sum : {dweight, dbias, dr_k}) std::memset(sum, 0, kMaxHead * sizeof(float));
    if (behind < rows) behind = op.leaves.end(behind, rows);
  }
}

template <class T>
void time_mix_out_backward(const Stream& stream, const TimeMixOutBackward& op) {
  for_blocks(stream, op.ln_weight.elements(), op.head_size,
             [&](int64_t head, int64_t) { time_mix_out_backward_head<T>(op, head); });
}

}  // namespace rwkv::cpu::RWKV_ISA
