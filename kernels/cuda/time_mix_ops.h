// Before and after the recurrence (kernels/time_mix.h): L lanes of a warp have a head, each K
// channels that follow one another; sums over a head are theirs alone.
#pragma once

#include "kernels/cuda/token_sums.h"
#include "kernels/time_mix.h"

namespace rwkv::cuda {

// Which head and channels a thread has, of a block of kHeads heads and some rows.
template <int K, int L>
struct HeadLane {
  static constexpr int kHeads = kThreads / L;

  int64_t head, group;  // group: of rows
  int64_t c;            // first channel; some channel where it has none
  bool inside;    // it has channels: heads of 16 leave half a warp idle, and there may be no head
  bool is_there;  // some thread of its warp has
  bool leads;     // its head's first channel is its own

  RWKV_DEVICE HeadLane(int64_t width, int64_t head_size) {
    const int64_t heads = width / head_size, across = (heads + kHeads - 1) / kHeads;
    const int lane = thread_index() % L;
    head = block_index() % across * kHeads + thread_index() / L;
    group = block_index() / across;
    inside = head < heads && lane * K < head_size;
    c = inside ? head * head_size + lane * K : 0;
    is_there = head - thread_index() % kWarp / L < heads;
    leads = inside && lane == 0;
  }
  static int64_t blocks(int64_t groups, int64_t width, int64_t head_size) {
    return groups * ((width / head_size + kHeads - 1) / kHeads);
  }
};

inline constexpr int64_t kForwardRows = 16;  // of a block, where nothing is summed over rows

template <int L, int K>
RWKV_DEVICE float head_sum(const float (&x)[K], bool inside) {
  float sum = 0;
  for (int i = 0; i < K; ++i) sum += x[i];
  return warp_sum<L>(inside ? sum : 0);
}

// work(r, what read(r) gave) for rows [begin, end), each read while the row before it is worked on:
// a row's sums over its head wait for no memory.
template <class Read, class Work>
RWKV_DEVICE void rows_ahead(int64_t begin, int64_t end, const Read& read, const Work& work) {
  if (begin >= end) return;
  auto next = read(begin);
  for (int64_t r = begin; r < end; ++r) {
    const auto now = next;
    if (r + 1 < end) next = read(device::opaque(r + 1));  // addresses take no registers
    work(device::opaque(r), now);
  }
}

// Calls Run<T, K, L> for the head size; a head of 64 has as many lanes as are asked for. Fewer
// lanes take fewer steps a sum and more registers.
template <template <class, int, int> class Run, class T, int kLanes64, class Op>
void by_lane_channels(const Stream& stream, const Op& op) {
  check_head_size(op.head_size);
  if (op.head_size <= 32) return Run<T, 1, 32>::run(stream, op);
  if (op.head_size == 64) return Run<T, 64 / kLanes64, kLanes64>::run(stream, op);
  Run<T, 4, 32>::run(stream, op);
}

// Divides key k_k of one head: its norm, or the smallest allowed, which has no gradient.
struct KappaNorm {
  float inverse;
  bool clipped;
  RWKV_DEVICE explicit KappaNorm(float squares) {
    constexpr float kSmallest = 1e-12f;
    clipped = squares <= kSmallest * kSmallest;
    inverse = 1.0f / (clipped ? kSmallest : sqrtf(squares));
  }
};

// Parameters of a lane's channels.
template <int K>
struct TimeMixChannels {
  float a0[K], k_k[K], k_a[K], v0[K] = {};

  // first_v0: nullptr in the first layer.
  RWKV_DEVICE TimeMixChannels(int64_t c, const float* first_a0, const float* first_k_k,
                              const float* first_k_a, const float* first_v0) {
    load_run(first_a0 + c, a0);
    load_run(first_k_k + c, k_k);
    load_run(first_k_a + c, k_a);
    if (first_v0 != nullptr) load_run(first_v0 + c, v0);
  }
};

template <class T, int K, int L>
struct TimeMixIn {
  const float *a0, *k_k, *k_a, *v0;
  const T *iclr, *gate, *key, *value, *first;
  T *k, *v, *a, *b;
  int64_t rows, width, head_size;

  RWKV_DEVICE void operator()() const {
    const HeadLane<K, L> lane(width, head_size);
    if (!lane.is_there) return;
    const TimeMixChannels<K> p(lane.c, a0, k_k, k_a, v0);
    const int64_t begin = lane.group * kForwardRows, end = begin + kForwardRows;
    rows_ahead(
        begin, end < rows ? end : rows,
        [&](int64_t r) { return Row(*this, r * width + lane.c, lane.inside); },
        [&](int64_t r, const Row& in) { row(r * width + lane.c, in, lane.inside, p); });
  }

 private:
  // As it lies in memory; nothing where the thread has no channels.
  struct Row {
    Run<T, K> key{}, iclr{}, value{}, first{}, gate{};

    RWKV_DEVICE Row(const TimeMixIn& of, int64_t i, bool there) {
      if (!there) return;
      key = raw_run<K>(of.key + i);
      iclr = raw_run<K>(of.iclr + i);
      value = raw_run<K>(of.value + i);
      if (of.gate == nullptr) return;
      first = raw_run<K>(of.first + i);
      gate = raw_run<K>(of.gate + i);
    }
  };

  RWKV_DEVICE void row(int64_t i, const Row& in, bool inside, const TimeMixChannels<K>& p) const {
    float key_i[K], rate[K], scaled[K], squares[K];
    unpack(in.key, key_i);
    unpack(in.iclr, rate);
    for (int j = 0; j < K; ++j) {
      scaled[j] = key_i[j] * p.k_k[j];
      squares[j] = scaled[j] * scaled[j];
      rate[j] = sigmoid(p.a0[j] + rate[j]);
    }
    const KappaNorm kappa(head_sum<L>(squares, inside));
    if (!inside) return;
    float to_k[K], to_a[K], to_b[K];
    for (int j = 0; j < K; ++j) {
      const float direction = scaled[j] * kappa.inverse;
      to_k[j] = key_i[j] * (1 + (rate[j] - 1) * p.k_a[j]);
      to_a[j] = -direction;
      to_b[j] = direction * rate[j];
    }
    store_run(k + i, to_k);
    store_run(a + i, to_a);
    store_run(b + i, to_b);
    value_row(i, in, p);
  }

  RWKV_DEVICE void value_row(int64_t i, const Row& in, const TimeMixChannels<K>& p) const {
    float own[K];
    unpack(in.value, own);
    if (gate != nullptr) {
      float other[K], mix[K];
      unpack(in.first, other);
      unpack(in.gate, mix);
      for (int j = 0; j < K; ++j) own[j] += (other[j] - own[j]) * sigmoid(p.v0[j] + mix[j]);
    }
    store_run(v + i, own);
  }
};
template <class T, int K, int L>
struct RunTimeMixIn {
  static void run(const Stream& stream, const TimeMixInForward& op) {
    const int64_t width = op.a0.elements(), rows = op.key.elements() / width;
    const int64_t groups = (rows + kForwardRows - 1) / kForwardRows;
    device::launch(
        stream, {HeadLane<K, L>::blocks(groups, width, op.head_size), kThreads, 0},
        TimeMixIn<T, K, L>{in<float>(op.a0), in<float>(op.k_k), in<float>(op.k_a), in<float>(op.v0),
                           in<T>(op.iclr), in<T>(op.value_gate), in<T>(op.key), in<T>(op.value),
                           in<T>(op.v_first), out<T>(op.k), out<T>(op.v), out<T>(op.a),
                           out<T>(op.b), rows, width, op.head_size});
  }
};
template <class T>
struct TimeMixInForwardOp {
  static void run(const Stream& stream, const TimeMixInForward& op) {
    by_lane_channels<RunTimeMixIn, T, 32>(stream, op);
  }
};

// Mean and reciprocal deviation of one head; inverse: of its size.
template <int L>
struct HeadStatistics {
  float mean, rstd;
  template <int K>
  RWKV_DEVICE HeadStatistics(const float (&y)[K], bool inside, float inverse, float eps) {
    mean = head_sum<L>(y, inside) * inverse;
    float squares[K];
    for (int j = 0; j < K; ++j) squares[j] = (y[j] - mean) * (y[j] - mean);
    rstd = 1.0f / sqrtf(head_sum<L>(squares, inside) * inverse + eps);
  }
};

template <class T, int K, int L>
struct TimeMixOut {
  const T *y, *r, *k, *v, *g;
  const float *weight, *bias, *r_k;
  T* z;
  int64_t rows, width, head_size;
  float eps;

  RWKV_DEVICE void operator()() const {
    const HeadLane<K, L> lane(width, head_size);
    if (!lane.is_there) return;
    float scale[K], shift[K], bonus[K];
    load_run(weight + lane.c, scale);
    load_run(bias + lane.c, shift);
    load_run(r_k + lane.c, bonus);
    const int64_t begin = lane.group * kForwardRows, end = begin + kForwardRows;
    const float inverse = 1.0f / static_cast<float>(head_size);
    const auto read = [&](int64_t row) { return Row(*this, row * width + lane.c, lane.inside); };
    rows_ahead(begin, end < rows ? end : rows, read, [&](int64_t row, const Row& in) {
      float own[K], products[K], k_i[K], v_i[K], g_i[K];
      unpack(in.y, own);
      unpack(in.r, products);
      unpack(in.k, k_i);
      unpack(in.v, v_i);
      unpack(in.g, g_i);
      const HeadStatistics<L> norm(own, lane.inside, inverse, eps);
      for (int j = 0; j < K; ++j) products[j] *= k_i[j] * bonus[j];
      const float along = head_sum<L>(products, lane.inside);
      for (int j = 0; j < K; ++j) {
        own[j] = (own[j] - norm.mean) * norm.rstd * scale[j] + shift[j] + along * v_i[j];
        own[j] *= g_i[j];
      }
      if (lane.inside) store_run(z + row * width + lane.c, own);
    });
  }

 private:
  // As it lies in memory; nothing where the thread has no channels.
  struct Row {
    Run<T, K> y{}, r{}, k{}, v{}, g{};

    RWKV_DEVICE Row(const TimeMixOut& of, int64_t i, bool there) {
      if (!there) return;
      y = raw_run<K>(of.y + i);
      r = raw_run<K>(of.r + i);
      k = raw_run<K>(of.k + i);
      v = raw_run<K>(of.v + i);
      g = raw_run<K>(of.g + i);
    }
  };
};
template <class T, int K, int L>
struct RunTimeMixOut {
  static void run(const Stream& stream, const TimeMixOutForward& op) {
    const int64_t width = op.ln_weight.elements(), rows = op.y.elements() / width;
    const int64_t groups = (rows + kForwardRows - 1) / kForwardRows;
    device::launch(
        stream, {HeadLane<K, L>::blocks(groups, width, op.head_size), kThreads, 0},
        TimeMixOut<T, K, L>{in<T>(op.y), in<T>(op.r), in<T>(op.k), in<T>(op.v), in<T>(op.g),
                            in<float>(op.ln_weight), in<float>(op.ln_bias), in<float>(op.r_k),
                            out<T>(op.z), rows, width, op.head_size, static_cast<float>(op.eps)});
  }
};
template <class T>
struct TimeMixOutForwardOp {
  static void run(const Stream& stream, const TimeMixOutForward& op) {
    by_lane_channels<RunTimeMixOut, T, 16>(stream, op);
  }
};

}  // namespace rwkv::cuda
