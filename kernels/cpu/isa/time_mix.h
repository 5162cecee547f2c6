// Time mix around the recurrence. Backward passes give whole heads to threads, so that parameter
// gradients are added up in row order whatever the number of threads.
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
  const int64_t width = op.a0.elements(), rows = op.key.elements() / width, n = op.head_size;
  const float* a0 = op.a0.as<float>();
  const float *v0 = op.v0.as<float>(), *k_k = op.k_k.as<float>(), *k_a = op.k_a.as<float>();
  const T *iclr = op.iclr.as<T>(), *gate = op.value_gate.as<T>(), *key = op.key.as<T>();
  const T *value = op.value.as<T>(), *first = op.v_first.as<T>();
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

// The sums over a leaf's tokens that a thread's heads give to N parameters.
template <int N>
struct HeadSums {
  float of[N][kMostChannels] = {};

  // Adds them to the parameters' gradients, whose channels begin at `first`; and starts again.
  void flush(const TokenSum* const (&to)[N], int64_t first, int64_t channels) {
    for (int i = 0; i < N; ++i) {
      if (!to[i]->empty()) add_partials(*to[i], first, of[i], channels);
    }
    for (float(&sum)[kMostChannels] : of) {
      std::memset(sum, 0, static_cast<size_t>(channels) * sizeof(float));
    }
  }
};

template <class T>
class TimeMixInBack {
 public:
  enum : int { kW0, kA0, kKk, kKa, kV0, kSums };

  explicit TimeMixInBack(const TimeMixInBackward& op) : op_(op), n_(op.head_size) {}

  // Channels [begin, end), whole heads, of all rows.
  void run(int64_t begin, int64_t end) {
    const int64_t width = op_.a0.elements(), rows = op_.key.elements() / width;
    int64_t behind = op_.leaves.end(0, rows);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t head = begin; head < end; head += n_) {
        value_row(r * width + head, head, head - begin);
        key_row(r * width + head, head, head - begin);
      }
      if (r + 1 < behind) continue;
      sums_.flush({&op_.dw0, &op_.da0, &op_.dk_k, &op_.dk_a, &op_.dv0}, begin, end - begin);
      if (behind < rows) behind = op_.leaves.end(behind, rows);
    }
  }

 private:
  // The value residual of a row of a head: elements from o on, parameters from `head` on.
  [[gnu::always_inline]] void value_row(int64_t o, int64_t head, int64_t in_sums) {
    const T *gate = op_.value_gate.as<T>(), *dv = op_.dv.as<T>();
    T* dvalue = op_.dvalue.as<T>() + o;
    float* dfirst = op_.dv_first.as<float>() + o;
    dv += o;
    if (gate == nullptr) {
#pragma omp simd
      for (int64_t c = 0; c < n_; ++c) store(dvalue[c], load(dv[c]) + dfirst[c]);
      return;
    }
    gate += o;
    const T *value = op_.value.as<T>() + o, *first = op_.v_first.as<T>() + o;
    const float* v0 = op_.v0.as<float>() + head;
    T* dgate = op_.dvalue_gate.as<T>() + o;
    float* dv0 = sums_.of[kV0] + in_sums;
#pragma omp simd
    for (int64_t c = 0; c < n_; ++c) {
      const float mix = sigmoid(v0[c] + load(gate[c])), d = load(dv[c]);
      const float dmix = d * (load(first[c]) - load(value[c])) * mix * (1.0f - mix);
      store(dvalue[c], d * (1.0f - mix));
      dfirst[c] += d * mix;
      store(dgate[c], dmix);
      dv0[c] += dmix;
    }
  }

  // Decay, in-context learning rate and key.
  [[gnu::always_inline]] void key_row(int64_t o, int64_t head, int64_t in_sums) {
    const T *iclr = op_.iclr.as<T>() + o, *key = op_.key.as<T>() + o, *dk = op_.dk.as<T>() + o;
    const T *da = op_.da.as<T>() + o, *db = op_.db.as<T>() + o;
    const float *a0 = op_.a0.as<float>() + head, *k_k = op_.k_k.as<float>() + head;
    const float* k_a = op_.k_a.as<float>() + head;
    const T* dw_raw = op_.dw_raw.as<T>() + o;
    T *diclr = op_.diclr.as<T>() + o, *dkey = op_.dkey.as<T>() + o;
    float *dw0 = sums_.of[kW0] + in_sums, *da0 = sums_.of[kA0] + in_sums;
    float *dk_k = sums_.of[kKk] + in_sums, *dk_a = sums_.of[kKa] + in_sums;
    float rates[kMaxHead], kappas[kMaxHead], dkappas[kMaxHead];
    float keeps, along = 0;
    const float inverse = inverse_norm(key, k_k, n_, &keeps);
#pragma omp simd reduction(+ : along)
    for (int64_t c = 0; c < n_; ++c) {
      rates[c] = sigmoid(a0[c] + load(iclr[c]));
      kappas[c] = load(key[c]) * k_k[c] * inverse;
      dkappas[c] = load(db[c]) * rates[c] - load(da[c]);
      along += kappas[c] * dkappas[c];
    }
    along *= keeps;  // a clipped norm does not depend on the key
#pragma omp simd
    for (int64_t c = 0; c < n_; ++c) {
      const float x = load(key[c]), d = load(dk[c]), rate = rates[c];
      const float dscaled = (dkappas[c] - kappas[c] * along) * inverse;
      const float drate = d * x * k_a[c] + load(db[c]) * kappas[c];
      const float dpre = drate * rate * (1.0f - rate);
      store(diclr[c], dpre);
      store(dkey[c], d * (1.0f + (rate - 1.0f) * k_a[c]) + dscaled * k_k[c]);
      da0[c] += dpre;
      dw0[c] += load(dw_raw[c]);
      dk_k[c] += dscaled * x;
      dk_a[c] += d * x * (rate - 1.0f);
    }
  }

  const TimeMixInBackward& op_;
  const int64_t n_;
  HeadSums<kSums> sums_;
};

template <class T>
void time_mix_in_backward(const Stream& stream, const TimeMixInBackward& op) {
  for_blocks(stream, op.a0.elements(), channels_a_thread(stream, op.a0.elements(), op.head_size),
             [&](int64_t begin, int64_t end) { TimeMixInBack<T>(op).run(begin, end); });
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
class TimeMixOutBack {
 public:
  enum : int { kWeight, kBias, kBonus, kSums };

  explicit TimeMixOutBack(const TimeMixOutBackward& op) : op_(op), n_(op.head_size) {}

  // Channels [begin, end), whole heads, of all rows.
  void run(int64_t begin, int64_t end) {
    const int64_t width = op_.ln_weight.elements(), rows = op_.y.elements() / width;
    int64_t behind = op_.leaves.end(0, rows);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t head = begin; head < end; head += n_) row(r * width + head, head, head - begin);
      if (r + 1 < behind) continue;
      sums_.flush({&op_.dln_weight, &op_.dln_bias, &op_.dr_k}, begin, end - begin);
      if (behind < rows) behind = op_.leaves.end(behind, rows);
    }
  }

 private:
  // A row of a head: elements from o on, parameters from `head` on.
  [[gnu::always_inline]] void row(int64_t o, int64_t head, int64_t in_sums) {
    const T *y = op_.y.as<T>() + o, *r = op_.r.as<T>() + o, *k = op_.k.as<T>() + o;
    const T *v = op_.v.as<T>() + o, *g = op_.g.as<T>() + o, *dz = op_.dz.as<T>() + o;
    const float *weight = op_.ln_weight.as<float>() + head, *bias = op_.ln_bias.as<float>() + head;
    const float* r_k = op_.r_k.as<float>() + head;
    T *dy = op_.dy.as<T>() + o, *dv = op_.dv.as<T>() + o, *dg = op_.dg.as<T>() + o;
    float *dweight = sums_.of[kWeight] + in_sums, *dbias = sums_.of[kBias] + in_sums;
    float* dr_k = sums_.of[kBonus] + in_sums;
    float normed[kMaxHead], through[kMaxHead];
    float mean, rstd, bonus = 0, dbonus = 0, sum_g = 0, sum_gn = 0;
    head_statistics(y, n_, static_cast<float>(op_.eps), &mean, &rstd);
#pragma omp simd reduction(+ : bonus)
    for (int64_t c = 0; c < n_; ++c) bonus += load(r[c]) * load(k[c]) * r_k[c];
    if (!op_.z.empty()) {
      T* z = op_.z.as<T>() + o;
#pragma omp simd
      for (int64_t c = 0; c < n_; ++c) {
        const float x = (load(y[c]) - mean) * rstd * weight[c] + bias[c];
        store(z[c], (x + bonus * load(v[c])) * load(g[c]));
      }
    }
#pragma omp simd reduction(+ : dbonus, sum_g, sum_gn)
    for (int64_t c = 0; c < n_; ++c) {
      const float x = (load(y[c]) - mean) * rstd, value = load(v[c]);
      const float d_out = load(dz[c]), d = d_out * load(g[c]);
      store(dg[c], d_out * (x * weight[c] + bias[c] + bonus * value));
      store(dv[c], d * bonus);
      dweight[c] += d * x;
      dbias[c] += d;
      normed[c] = x;
      through[c] = d * weight[c];
      dbonus += d * value;
      sum_g += d * weight[c];
      sum_gn += d * weight[c] * x;
    }
    const float inverse = 1.0f / static_cast<float>(n_);
    const float mean_g = sum_g * inverse, mean_gn = sum_gn * inverse;
    op_.dbonus.as<float>()[o / n_] = dbonus;
#pragma omp simd
    for (int64_t c = 0; c < n_; ++c) {
      store(dy[c], rstd * (through[c] - mean_g - normed[c] * mean_gn));
      dr_k[c] += dbonus * load(r[c]) * load(k[c]);
    }
  }

  const TimeMixOutBackward& op_;
  const int64_t n_;
  HeadSums<kSums> sums_;
};

template <class T>
void time_mix_out_backward(const Stream& stream, const TimeMixOutBackward& op) {
  for_blocks(stream, op.ln_weight.elements(),
             channels_a_thread(stream, op.ln_weight.elements(), op.head_size),
             [&](int64_t begin, int64_t end) { TimeMixOutBack<T>(op).run(begin, end); });
}

}  // namespace rwkv::cpu::RWKV_ISA
