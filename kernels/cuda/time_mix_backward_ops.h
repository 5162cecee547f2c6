// Backward of what is before and after the recurrence: a block takes a slab of rows, and its
// parameters' sums stay in registers until the slab's end.
#pragma once

#include "kernels/cuda/time_mix_ops.h"

namespace rwkv::cuda {

template <class T, int K, int L>
struct TimeMixInBack {
  const T *iclr, *gate, *key, *value, *first, *dw_raw, *dk, *dv, *da, *db;
  const float *a0, *k_k, *k_a, *v0;
  T *diclr, *dgate, *dkey, *dvalue;
  float* dfirst;
  SlabSums sums;
  Slabs slabs;
  int64_t width, head_size;

  enum : int { kW0, kA0, kKk, kKa, kV0, kSums };

  RWKV_DEVICE void operator()() const {
    const HeadLane<K, L> lane(width, head_size);
    if (!lane.is_there) return;
    const TimeMixChannels<K> p(lane.c, a0, k_k, k_a, v0);
    float sum[kSums][K] = {};
    const RowRange range = slabs.of_slab(lane.group);
    rows_ahead(
        range.begin, range.end,
        [&](int64_t r) { return Row(*this, r * width + lane.c, lane.inside); },
        [&](int64_t r, const Row& in) {
          row(r * width + lane.c, in, lane.inside, p, sum);
          if (lane.inside) value_row(r * width + lane.c, in, p, sum);
        });
    if (lane.inside) sums.put(lane.group, lane.c, sum);
  }

 private:
  // As it lies in memory; nothing where the thread has no channels.
  struct Row {
    Run<T, K> key{}, iclr{}, da{}, db{}, dk{}, dv{}, dw{}, gate{}, first{}, value{};
    Run<float, K> dfirst{};

    RWKV_DEVICE Row(const TimeMixInBack& of, int64_t i, bool there) {
      if (!there) return;
      key = raw_run<K>(of.key + i);
      iclr = raw_run<K>(of.iclr + i);
      da = raw_run<K>(of.da + i);
      db = raw_run<K>(of.db + i);
      dk = raw_run<K>(of.dk + i);
      dv = raw_run<K>(of.dv + i);
      dw = raw_run<K>(of.dw_raw + i);
      dfirst = raw_run<K>(of.dfirst + i);
      if (of.gate == nullptr) return;
      gate = raw_run<K>(of.gate + i);
      first = raw_run<K>(of.first + i);
      value = raw_run<K>(of.value + i);
    }
  };

  RWKV_DEVICE void row(int64_t i, const Row& in, bool inside, const TimeMixChannels<K>& p,
                       float (&sum)[kSums][K]) const {
    float key_i[K], rate[K], direction[K], ddirection[K], db_i[K], dk_i[K], dw[K], terms[K];
    unpack(in.key, key_i);
    unpack(in.iclr, rate);
    unpack(in.db, db_i);
    unpack(in.da, ddirection);
    unpack(in.dk, dk_i);
    unpack(in.dw, dw);
    for (int j = 0; j < K; ++j) {
      direction[j] = key_i[j] * p.k_k[j];
      terms[j] = direction[j] * direction[j];
      rate[j] = sigmoid(p.a0[j] + rate[j]);
    }
    const KappaNorm kappa(head_sum<L>(terms, inside));
    for (int j = 0; j < K; ++j) {
      direction[j] *= kappa.inverse;
      ddirection[j] = db_i[j] * rate[j] - ddirection[j];
      terms[j] = direction[j] * ddirection[j];
    }
    const float along = head_sum<L>(terms, inside), removed = kappa.clipped ? 0 : along;
    if (!inside) return;
    float dpre[K];
    for (int j = 0; j < K; ++j) {
      const float dscaled = (ddirection[j] - direction[j] * removed) * kappa.inverse;
      const float drate = dk_i[j] * key_i[j] * p.k_a[j] + db_i[j] * direction[j];
      dpre[j] = drate * rate[j] * (1 - rate[j]);
      terms[j] = dk_i[j] * (1 + (rate[j] - 1) * p.k_a[j]) + dscaled * p.k_k[j];
      sum[kW0][j] += dw[j];
      sum[kA0][j] += dpre[j];
      sum[kKk][j] += dscaled * key_i[j];
      sum[kKa][j] += dk_i[j] * key_i[j] * (rate[j] - 1);
    }
    store_run(diclr + i, dpre);
    store_run(dkey + i, terms);
  }

  RWKV_DEVICE void value_row(int64_t i, const Row& in, const TimeMixChannels<K>& p,
                             float (&sum)[kSums][K]) const {
    float d[K], of_first[K];
    unpack(in.dv, d);
    unpack(in.dfirst, of_first);
    if (gate == nullptr) {
      for (int j = 0; j < K; ++j) d[j] += of_first[j];
      store_run(dvalue + i, d);
      return;
    }
    float mix[K], other[K], own[K];
    unpack(in.gate, mix);
    unpack(in.first, other);
    unpack(in.value, own);
    for (int j = 0; j < K; ++j) {
      mix[j] = sigmoid(p.v0[j] + mix[j]);
      other[j] = d[j] * (other[j] - own[j]) * mix[j] * (1 - mix[j]);  // the gate's gradient
      of_first[j] += d[j] * mix[j];
      d[j] *= 1 - mix[j];
      sum[kV0][j] += other[j];
    }
    store_run(dvalue + i, d);
    store_run(dfirst + i, of_first);
    store_run(dgate + i, other);
  }
};
template <class T, int K, int L>
struct RunTimeMixInBack {
  static void run(const Stream& stream, const TimeMixInBackward& op) {
    using Kernel = TimeMixInBack<T, K, L>;
    const int64_t width = op.a0.elements();
    const Slabs all(op.leaves, op.key.elements() / width);
    by_room(stream, all, SlabSums::bytes_a_slab(width, Kernel::kSums),
            [&](const Slabs& slabs) { run(stream, op, slabs); });
  }

 private:
  static void run(const Stream& stream, const TimeMixInBackward& op, const Slabs& slabs) {
    using Kernel = TimeMixInBack<T, K, L>;
    const int64_t width = op.a0.elements();
    const SlabSums sums(stream, slabs, width, Kernel::kSums);
    device::launch(stream,
                   {HeadLane<K, L>::blocks(slabs.count(), width, op.head_size), kThreads, 0},
                   Kernel{in<T>(op.iclr),
                          in<T>(op.value_gate),
                          in<T>(op.key),
                          in<T>(op.value),
                          in<T>(op.v_first),
                          in<T>(op.dw_raw),
                          in<T>(op.dk),
                          in<T>(op.dv),
                          in<T>(op.da),
                          in<T>(op.db),
                          in<float>(op.a0),
                          in<float>(op.k_k),
                          in<float>(op.k_a),
                          in<float>(op.v0),
                          out<T>(op.diclr),
                          out<T>(op.dvalue_gate),
                          out<T>(op.dkey),
                          out<T>(op.dvalue),
                          out<float>(op.dv_first),
                          sums,
                          slabs,
                          width,
                          op.head_size});
    add_slabs<Kernel::kSums>(stream, slabs, sums,
                             {PartialSum(op.dw0), PartialSum(op.da0), PartialSum(op.dk_k),
                              PartialSum(op.dk_a), PartialSum(op.dv0)});
  }
};
template <class T>
struct TimeMixInBackwardOp {
  static void run(const Stream& stream, const TimeMixInBackward& op) {
    by_lane_channels<RunTimeMixInBack, T, 32>(stream, op);
  }
};

template <class T, int K, int L>
struct TimeMixOutBack {
  const T *y, *r, *k, *v, *g, *dz;
  const float *weight, *bias, *r_k;
  T *z, *dy, *dv, *dg;  // z: nullptr: not wanted
  float* dbonus;
  SlabSums sums;
  Slabs slabs;
  int64_t width, heads, head_size;
  float eps;

  enum : int { kWeight, kBias, kBonus, kSums };

  RWKV_DEVICE void operator()() const {
    const HeadLane<K, L> lane(width, head_size);
    if (!lane.is_there) return;
    Channels p;
    load_run(weight + lane.c, p.scale);
    load_run(bias + lane.c, p.shift);
    load_run(r_k + lane.c, p.bonus);
    float sum[kSums][K] = {};
    const RowRange range = slabs.of_slab(lane.group);
    rows_ahead(
        range.begin, range.end,
        [&](int64_t row) { return Row(*this, row * width + lane.c, lane.inside); },
        [&](int64_t row, const Row& in) { back(row, in, lane, p, sum); });
    if (lane.inside) sums.put(lane.group, lane.c, sum);
  }

 private:
  struct Channels {
    float scale[K], shift[K], bonus[K];
  };
  // Means over the head of d scale, and of it times the normalised y.
  struct Means {
    float g, gn;
  };

  // As it lies in memory; nothing where the thread has no channels.
  struct Row {
    Run<T, K> y{}, r{}, k{}, v{}, g{}, dz{};

    RWKV_DEVICE Row(const TimeMixOutBack& of, int64_t i, bool there) {
      if (!there) return;
      y = raw_run<K>(of.y + i);
      r = raw_run<K>(of.r + i);
      k = raw_run<K>(of.k + i);
      v = raw_run<K>(of.v + i);
      g = raw_run<K>(of.g + i);
      dz = raw_run<K>(of.dz + i);
    }
  };

  RWKV_DEVICE void back(int64_t row, const Row& in, const HeadLane<K, L>& lane, const Channels& p,
                        float (&sum)[kSums][K]) const {
    const int64_t i = row * width + lane.c;
    const bool inside = lane.inside;
    float n[K], r_i[K], k_i[K], v_i[K], gate[K], d[K], dz_i[K], terms[K];
    unpack(in.y, n);
    unpack(in.r, r_i);
    unpack(in.k, k_i);
    unpack(in.v, v_i);
    unpack(in.dz, dz_i);
    unpack(in.g, gate);
    const float inverse = 1.0f / static_cast<float>(head_size);
    const HeadStatistics<L> norm(n, inside, inverse, eps);
    for (int j = 0; j < K; ++j) {
      n[j] = (n[j] - norm.mean) * norm.rstd;
      terms[j] = r_i[j] * k_i[j] * p.bonus[j];
      d[j] = gate[j] * dz_i[j];
    }
    const float bonus = head_sum<L>(terms, inside);
    for (int j = 0; j < K; ++j) terms[j] = d[j] * v_i[j];
    const float of_bonus = head_sum<L>(terms, inside);
    for (int j = 0; j < K; ++j) terms[j] = d[j] * p.scale[j];
    Means mean{head_sum<L>(terms, inside) * inverse, 0};
    for (int j = 0; j < K; ++j) terms[j] *= n[j];
    mean.gn = head_sum<L>(terms, inside) * inverse;
    if (!inside) return;
    for (int j = 0; j < K; ++j) {
      sum[kWeight][j] += d[j] * n[j];
      sum[kBias][j] += d[j];
      sum[kBonus][j] += of_bonus * r_i[j] * k_i[j];
      const float ungated = n[j] * p.scale[j] + p.shift[j] + bonus * v_i[j];
      dz_i[j] *= ungated;
      gate[j] *= ungated;
      n[j] = norm.rstd * (d[j] * p.scale[j] - mean.g - n[j] * mean.gn);
      d[j] *= bonus;
    }
    if (z != nullptr) store_run(z + i, gate);
    store_run(dg + i, dz_i);
    store_run(dy + i, n);
    store_run(dv + i, d);
    if (lane.leads) dbonus[row * heads + lane.head] = of_bonus;
  }
};
template <class T, int K, int L>
struct RunTimeMixOutBack {
  static void run(const Stream& stream, const TimeMixOutBackward& op) {
    using Kernel = TimeMixOutBack<T, K, L>;
    const int64_t width = op.ln_weight.elements();
    const Slabs all(op.leaves, op.y.elements() / width);
    by_room(stream, all, SlabSums::bytes_a_slab(width, Kernel::kSums),
            [&](const Slabs& slabs) { run(stream, op, slabs); });
  }

 private:
  static void run(const Stream& stream, const TimeMixOutBackward& op, const Slabs& slabs) {
    using Kernel = TimeMixOutBack<T, K, L>;
    const int64_t width = op.ln_weight.elements();
    const SlabSums sums(stream, slabs, width, Kernel::kSums);
    device::launch(stream,
                   {HeadLane<K, L>::blocks(slabs.count(), width, op.head_size), kThreads, 0},
                   Kernel{in<T>(op.y),
                          in<T>(op.r),
                          in<T>(op.k),
                          in<T>(op.v),
                          in<T>(op.g),
                          in<T>(op.dz),
                          in<float>(op.ln_weight),
                          in<float>(op.ln_bias),
                          in<float>(op.r_k),
                          out<T>(op.z),
                          out<T>(op.dy),
                          out<T>(op.dv),
                          out<T>(op.dg),
                          out<float>(op.dbonus),
                          sums,
                          slabs,
                          width,
                          width / op.head_size,
                          op.head_size,
                          static_cast<float>(op.eps)});
    add_slabs<Kernel::kSums>(
        stream, slabs, sums,
        {PartialSum(op.dln_weight), PartialSum(op.dln_bias), PartialSum(op.dr_k)});
  }
};
template <class T>
struct TimeMixOutBackwardOp {
  static void run(const Stream& stream, const TimeMixOutBackward& op) {
    by_lane_channels<RunTimeMixOutBack, T, 16>(stream, op);
  }
};

}  // namespace rwkv::cuda
