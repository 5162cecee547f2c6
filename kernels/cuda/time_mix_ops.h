// Before and after the recurrence (kernels/time_mix.h).
#pragma once

#include "kernels/cuda/token_sums.h"
#include "kernels/time_mix.h"

namespace rwkv::cuda {

// The threads of a head's block: a whole number of warps; those beyond the head add nothing.
inline int head_threads(int64_t head_size) {
  return static_cast<int>((head_size + kWarp - 1) / kWarp * kWarp);
}

// Divides key k_k of one head: its norm, or the smallest allowed, which has no gradient.
struct KappaNorm {
  float norm;
  bool clipped;
  RWKV_DEVICE explicit KappaNorm(float squares) {
    constexpr float kSmallest = 1e-12f;
    clipped = squares <= kSmallest * kSmallest;
    norm = clipped ? kSmallest : sqrtf(squares);
  }
};

template <class T>
struct TimeMixIn {
  const float *decay, *w0, *a0, *k_k, *k_a, *v0;
  const T *iclr, *gate, *key, *value, *first;
  float* w_raw;
  T *k, *v, *a, *b;
  int64_t width, head_size;

  // A block a row and head.
  RWKV_DEVICE void operator()() const {
    auto* scratch = reinterpret_cast<float*>(device::shared_memory());
    const int64_t heads = width / head_size, n = thread_index();
    const int64_t r = block_index() / heads, c = block_index() % heads * head_size + n;
    const int64_t i = r * width + c;
    const bool inside = n < head_size;
    const float own_key = inside ? load(key + i) : 0;
    const float scaled = inside ? own_key * k_k[c] : 0;
    const KappaNorm kappa(block_sum(scaled * scaled, scratch));
    if (!inside) return;
    const float rate = sigmoid(a0[c] + load(iclr + i)), direction = scaled / kappa.norm;
    w_raw[i] = w0[c] + decay[i];
    float own_value = load(value + i);
    if (gate != nullptr) {
      own_value += (load(first + i) - own_value) * sigmoid(v0[c] + load(gate + i));
    }
    store(v + i, own_value);
    store(k + i, own_key * (1 + (rate - 1) * k_a[c]));
    store(a + i, -direction);
    store(b + i, direction * rate);
  }
};
template <class T>
struct TimeMixInForwardOp {
  static void run(const Stream& stream, const TimeMixInForward& op) {
    const int64_t width = op.w0.elements(), heads = op.key.elements() / op.head_size;
    device::launch(
        stream, {heads, head_threads(op.head_size), kWarp * 4},
        TimeMixIn<T>{in<float>(op.decay), in<float>(op.w0), in<float>(op.a0), in<float>(op.k_k),
                     in<float>(op.k_a), in<float>(op.v0), in<T>(op.iclr), in<T>(op.value_gate),
                     in<T>(op.key), in<T>(op.value), in<T>(op.v_first), out<float>(op.w_raw),
                     out<T>(op.k), out<T>(op.v), out<T>(op.a), out<T>(op.b), width, op.head_size});
  }
};

// A block a head, a thread a channel, over all rows: parameters' sums need no meeting.
template <class T>
struct TimeMixInBack {
  const T *iclr, *gate, *key, *value, *first, *dk, *dv, *da, *db;
  const float *a0, *k_k, *k_a, *v0, *dw_raw;
  T *diclr, *dgate, *dkey, *dvalue;
  float* dfirst;
  PartialSum dw0, da0, dk_k, dk_a, dv0;
  LeafRows leaves;
  int64_t width, head_size;

  RWKV_DEVICE void operator()() const {
    const int64_t c = block_index() * head_size + thread_index();
    const bool inside = thread_index() < head_size;
    for (int64_t begin = 0; begin < leaves.rows;) {
      const int64_t end = leaves.end(begin);
      Sums sums;
      for (int64_t r = begin; r < end; ++r) row(r * width + c, c, inside, sums);
      if (inside) {
        dw0.add(c, sums.w0);
        da0.add(c, sums.a0);
        dk_k.add(c, sums.k_k);
        dk_a.add(c, sums.k_a);
        if (gate != nullptr) dv0.add(c, sums.v0);
      }
      begin = end;
    }
  }

 private:
  struct Sums {
    float w0 = 0, a0 = 0, k_k = 0, k_a = 0, v0 = 0;
  };

  RWKV_DEVICE void row(int64_t i, int64_t c, bool inside, Sums& sums) const {
    auto* scratch = reinterpret_cast<float*>(device::shared_memory());
    const float own_key = inside ? load(key + i) : 0, scale = inside ? k_k[c] : 0;
    const KappaNorm kappa(block_sum(own_key * scale * own_key * scale, scratch));
    const float rate = inside ? sigmoid(a0[c] + load(iclr + i)) : 0;
    const float direction = own_key * scale / kappa.norm;
    const float db_i = inside ? load(db + i) : 0;
    const float ddirection = inside ? db_i * rate - load(da + i) : 0;
    const float removed = block_sum(kappa.clipped ? 0 : direction * ddirection, scratch);
    if (!inside) return;
    const float dscaled = (ddirection - direction * removed) / kappa.norm;
    const float dk_i = load(dk + i);
    const float drate = dk_i * own_key * k_a[c] + db_i * direction;
    const float dpre = drate * rate * (1 - rate);
    store(diclr + i, dpre);
    store(dkey + i, dk_i * (1 + (rate - 1) * k_a[c]) + dscaled * scale);
    sums.w0 += dw_raw[i];
    sums.a0 += dpre;
    sums.k_k += dscaled * own_key;
    sums.k_a += dk_i * own_key * (rate - 1);
    value_row(i, c, sums);
  }

  RWKV_DEVICE void value_row(int64_t i, int64_t c, Sums& sums) const {
    const float d = load(dv + i);
    if (gate == nullptr) {
      store(dvalue + i, d + dfirst[i]);
      return;
    }
    const float mix = sigmoid(v0[c] + load(gate + i));
    const float dmix = d * (load(first + i) - load(value + i)) * mix * (1 - mix);
    store(dvalue + i, d * (1 - mix));
    dfirst[i] += d * mix;
    store(dgate + i, dmix);
    sums.v0 += dmix;
  }
};
template <class T>
struct TimeMixInBackwardOp {
  static void run(const Stream& stream, const TimeMixInBackward& op) {
    const int64_t width = op.a0.elements(), rows = op.key.elements() / width;
    device::launch(stream, {width / op.head_size, head_threads(op.head_size), kWarp * 4},
                   TimeMixInBack<T>{in<T>(op.iclr),
                                    in<T>(op.value_gate),
                                    in<T>(op.key),
                                    in<T>(op.value),
                                    in<T>(op.v_first),
                                    in<T>(op.dk),
                                    in<T>(op.dv),
                                    in<T>(op.da),
                                    in<T>(op.db),
                                    in<float>(op.a0),
                                    in<float>(op.k_k),
                                    in<float>(op.k_a),
                                    in<float>(op.v0),
                                    in<float>(op.dw_raw),
                                    out<T>(op.diclr),
                                    out<T>(op.dvalue_gate),
                                    out<T>(op.dkey),
                                    out<T>(op.dvalue),
                                    out<float>(op.dv_first),
                                    PartialSum(op.dw0),
                                    PartialSum(op.da0),
                                    PartialSum(op.dk_k),
                                    PartialSum(op.dk_a),
                                    PartialSum(op.dv0),
                                    LeafRows(op.leaves, rows),
                                    width,
                                    op.head_size});
  }
};

// Mean and reciprocal deviation of one head, on every thread.
struct HeadStatistics {
  float mean, rstd;
  RWKV_DEVICE HeadStatistics(float y, bool inside, int64_t head_size, float eps, float* scratch) {
    mean = block_sum(inside ? y : 0, scratch) / static_cast<float>(head_size);
    const float d = inside ? y - mean : 0;
    rstd = 1.0f / sqrtf(block_sum(d * d, scratch) / static_cast<float>(head_size) + eps);
  }
};

template <class T>
struct TimeMixOut {
  const T *y, *r, *k, *v, *g;
  const float *weight, *bias, *r_k;
  T* z;
  int64_t width, head_size;
  float eps;

  RWKV_DEVICE void operator()() const {
    auto* scratch = reinterpret_cast<float*>(device::shared_memory());
    const int64_t heads = width / head_size, n = thread_index();
    const int64_t row = block_index() / heads, c = block_index() % heads * head_size + n;
    const int64_t i = row * width + c;
    const bool inside = n < head_size;
    const float own = inside ? load(y + i) : 0;
    const HeadStatistics norm(own, inside, head_size, eps, scratch);
    const float bonus = block_sum(inside ? load(r + i) * load(k + i) * r_k[c] : 0, scratch);
    if (!inside) return;
    const float before_gate =
        (own - norm.mean) * norm.rstd * weight[c] + bias[c] + bonus * load(v + i);
    store(z + i, before_gate * load(g + i));
  }
};
template <class T>
struct TimeMixOutForwardOp {
  static void run(const Stream& stream, const TimeMixOutForward& op) {
    const int64_t width = op.ln_weight.elements();
    device::launch(stream, {op.y.elements() / op.head_size, head_threads(op.head_size), kWarp * 4},
                   TimeMixOut<T>{in<T>(op.y), in<T>(op.r), in<T>(op.k), in<T>(op.v), in<T>(op.g),
                                 in<float>(op.ln_weight), in<float>(op.ln_bias), in<float>(op.r_k),
                                 out<T>(op.z), width, op.head_size, static_cast<float>(op.eps)});
  }
};

// A block a head, a thread a channel, over all rows.
template <class T>
struct TimeMixOutBack {
  const T *y, *r, *k, *v, *g, *dz;
  const float *weight, *bias, *r_k;
  T *dy, *dr, *dk, *dv, *dg;
  PartialSum dweight, dbias, dr_k;
  LeafRows leaves;
  int64_t width, head_size;
  float eps;

  RWKV_DEVICE void operator()() const {
    const int64_t c = block_index() * head_size + thread_index();
    const bool inside = thread_index() < head_size;
    for (int64_t begin = 0; begin < leaves.rows;) {
      const int64_t end = leaves.end(begin);
      Sums sums;
      for (int64_t row = begin; row < end; ++row) back(row * width + c, c, inside, sums);
      if (inside) {
        dweight.add(c, sums.weight);
        dbias.add(c, sums.bias);
        dr_k.add(c, sums.r_k);
      }
      begin = end;
    }
  }

 private:
  struct Sums {
    float weight = 0, bias = 0, r_k = 0;
  };

  RWKV_DEVICE void back(int64_t i, int64_t c, bool inside, Sums& sums) const {
    auto* scratch = reinterpret_cast<float*>(device::shared_memory());
    const float own = inside ? load(y + i) : 0, r_i = inside ? load(r + i) : 0;
    const float k_i = inside ? load(k + i) : 0, v_i = inside ? load(v + i) : 0;
    const float scale = inside ? weight[c] : 0, bonus_weight = inside ? r_k[c] : 0;
    const HeadStatistics norm(own, inside, head_size, eps, scratch);
    const float bonus = block_sum(r_i * k_i * bonus_weight, scratch);
    const float n = inside ? (own - norm.mean) * norm.rstd : 0;
    const float dz_i = inside ? load(dz + i) : 0;
    const float d = inside ? dz_i * load(g + i) : 0;
    const float dbonus = block_sum(d * v_i, scratch);
    const float mean_g = block_sum(d * scale, scratch) / static_cast<float>(head_size);
    const float mean_gn = block_sum(d * scale * n, scratch) / static_cast<float>(head_size);
    if (!inside) return;
    store(dg + i, dz_i * (n * scale + bias[c] + bonus * v_i));
    store(dv + i, d * bonus);
    store(dy + i, norm.rstd * (d * scale - mean_g - n * mean_gn));
    store(dr + i, dbonus * k_i * bonus_weight);
    store(dk + i, dbonus * r_i * bonus_weight);
    sums.weight += d * n;
    sums.bias += d;
    sums.r_k += dbonus * r_i * k_i;
  }
};
template <class T>
struct TimeMixOutBackwardOp {
  static void run(const Stream& stream, const TimeMixOutBackward& op) {
    const int64_t width = op.ln_weight.elements(), rows = op.y.elements() / width;
    device::launch(stream, {width / op.head_size, head_threads(op.head_size), kWarp * 4},
                   TimeMixOutBack<T>{in<T>(op.y),
                                     in<T>(op.r),
                                     in<T>(op.k),
                                     in<T>(op.v),
                                     in<T>(op.g),
                                     in<T>(op.dz),
                                     in<float>(op.ln_weight),
                                     in<float>(op.ln_bias),
                                     in<float>(op.r_k),
                                     out<T>(op.dy),
                                     out<T>(op.dr),
                                     out<T>(op.dk),
                                     out<T>(op.dv),
                                     out<T>(op.dg),
                                     PartialSum(op.dln_weight),
                                     PartialSum(op.dln_bias),
                                     PartialSum(op.dr_k),
                                     LeafRows(op.leaves, rows),
                                     width,
                                     op.head_size,
                                     static_cast<float>(op.eps)});
  }
};

}  // namespace rwkv::cuda
