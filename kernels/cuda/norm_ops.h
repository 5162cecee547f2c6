// Layer norm, alone or with the token shift that follows it.
#pragma once

#include "kernels/cuda/shift_ops.h"
#include "kernels/norm_shift.h"

namespace rwkv::cuda {

// A value as it is read again.
template <class T>
RWKV_DEVICE float as_stored(float value) {
  T stored;
  store(&stored, value);
  return load(&stored);
}

// Sums over a block, one sync each: two rooms of a float a warp take turns. Every thread must come.
struct BlockSums {
  float* room;
  int turn = 0;

  RWKV_DEVICE float operator()(float value) {
    value = warp_sum(value);
    float* own = room + turn * kWarp;
    turn = 1 - turn;
    if (thread_index() % kWarp == 0) own[thread_index() / kWarp] = value;
    device::sync_block();
    float sum = 0;
    for (int i = 0; i < device::thread_count() / kWarp; ++i) sum += own[i];
    return sum;
  }
};

// A block takes rows in turn, each thread K channels of them, which it keeps. Statistics depend on
// the width alone. kMixes: of the shift; 0: none follows.
template <class T, int K, int kMixes>
struct NormShiftKernel {
  // With six mixes so many registers that 1024 threads would not have them; 0: any number would.
  static constexpr int kMostThreads = kMixes < kMaxMixes || K == 1 ? 0 : K == 4 ? 768 : 512;
  static constexpr int kRows = kMixes == 0 ? 4 : 16;  // of a block
  static constexpr int kKept = kMixes == 0 ? 1 : kMixes;

  const T* x;
  const float *weight, *bias;
  T* u;  // nullptr: not wanted
  float *mean, *rstd;
  float eps;
  int64_t all_rows, width;
  ShiftEdges edges;
  const float* mix[kKept];
  T* to[kKept];

  RWKV_DEVICE void operator()() const {
    BlockSums sums{reinterpret_cast<float*>(device::shared_memory())};
    const int64_t c = thread_index() * K, first = block_index() * kRows;
    const int64_t end = first + kRows < all_rows ? first + kRows : all_rows;
    const bool inside = c < width;
    float by[K] = {}, plus[K] = {}, mixes[kKept][K] = {}, before[K] = {}, own[K] = {};
    if (inside) {
      load_run(weight + c, by);
      load_run(bias + c, plus);
      for (int m = 0; m < kMixes; ++m) load_run(mix[m] + c, mixes[m]);
    }
    ShiftEdges::Place place{};
    if constexpr (kMixes > 0) {
      place = edges.place(first);
      if (place.token != 0) norm(sums, raw_row(first - 1, c), c, by, plus, before);
    }
    Run<T, K> next = raw_row(first, c);  // on its way while the row before it is worked on
    for (int64_t r = first; r < end; ++r) {
      const Run<T, K> raw = next;
      if (r + 1 < end) next = raw_row(r + 1, c);
      const Statistics row = norm(sums, raw, c, by, plus, own);
      if (thread_index() == 0) {
        mean[r] = row.mean;
        rstd[r] = row.rstd;
      }
      if (!inside) continue;
      if (u != nullptr) store_run(u + r * width + c, own);
      if constexpr (kMixes > 0) {
        shift(place, c, own, before, mixes);
        place = edges.after(place);
      }
    }
  }

 private:
  struct Statistics {
    float mean, rstd;
  };

  RWKV_DEVICE Run<T, K> raw_row(int64_t r, int64_t c) const {
    return c < width ? raw_run<K>(x + r * width + c) : Run<T, K>{};
  }

  // A row, as it is stored.
  RWKV_DEVICE Statistics norm(BlockSums& sums, const Run<T, K>& raw, int64_t c,
                              const float (&by)[K], const float (&plus)[K], float (&row)[K]) const {
    const bool inside = c < width;
    const float inverse = 1.0f / static_cast<float>(width);
    float sum = 0, squares = 0;
    unpack(raw, row);
    for (int j = 0; j < K; ++j) sum += row[j];
    const float mu = sums(sum) * inverse;
    for (int j = 0; j < K; ++j) {
      const float d = row[j] - mu;
      squares += inside ? d * d : 0;
    }
    const float scale = 1.0f / sqrtf(sums(squares) * inverse + eps);
    for (int j = 0; j < K; ++j) row[j] = as_stored<T>((row[j] - mu) * scale * by[j] + plus[j]);
    return {mu, scale};
  }

  RWKV_DEVICE void shift(const ShiftEdges::Place& place, int64_t c, const float (&own)[K],
                         float (&before)[K], const float (&mixes)[kKept][K]) const {
    if (edges.is_edge(place)) {
      for (int j = 0; j < K; ++j) before[j] = edges.before(place, c + j);
    }
    float difference[K];
    for (int j = 0; j < K; ++j) {
      difference[j] = before[j] - own[j];
      before[j] = own[j];
    }
    for (int m = 0; m < kMixes; ++m) {
      float mixed[K];
      for (int j = 0; j < K; ++j) mixed[j] = own[j] + difference[j] * mixes[m][j];
      store_run(to[m] + place.row * width + c, mixed);
    }
  }
};

// Calls Run<T, 8> or Run<T, 1> by what the width is a multiple of.
template <template <class, int> class Run, class T, class Op>
void by_octets(int64_t width, const Stream& stream, const Op& op) {
  width % 8 == 0 ? Run<T, 8>::run(stream, op) : Run<T, 1>::run(stream, op);
}

// Of a block that takes a row, so many channels a thread.
inline int64_t norm_threads(int64_t width, int64_t channels) {
  const int64_t threads = (width / channels + kWarp - 1) / kWarp * kWarp;
  if (threads <= 1024) return threads;
  throw InputError("model.width " + std::to_string(width) +
                   ": the CUDA kernels take up to 1024, and multiples of 8 up to 8192");
}

template <class T, int K, int kMixes>
void norm_shift(const Stream& stream, const NormShiftForward& fused) {
  const auto& [op, shift, keeps] = fused;
  using Kernel = NormShiftKernel<T, K, kMixes>;
  const int64_t width = op.weight.elements(), rows = op.x.elements() / width;
  const int64_t threads = norm_threads(width, K);
  Kernel kernel{in<T>(op.x),
                in<float>(op.weight),
                in<float>(op.bias),
                keeps ? out<T>(op.out) : nullptr,
                out<float>(op.mean),
                out<float>(op.rstd),
                static_cast<float>(op.eps),
                rows,
                width,
                {},
                {},
                {}};
  if constexpr (kMixes > 0) {
    kernel.edges = ShiftEdges(shift);
    for (int m = 0; m < kMixes; ++m) {
      kernel.mix[m] = in<float>(shift.mix[static_cast<size_t>(m)]);
      kernel.to[m] = out<T>(shift.out[static_cast<size_t>(m)]);
    }
  }
  device::launch(stream,
                 {(rows + Kernel::kRows - 1) / Kernel::kRows, static_cast<int>(threads),
                  2 * kWarp * int64_t{sizeof(float)}},
                 kernel);
}
template <class T, int K>
struct RunNorm {
  static void run(const Stream& stream, const LayerNormForward& op) {
    norm_shift<T, K, 0>(stream, {op, {}});
  }
  static void run(const Stream& stream, const NormShiftForward& op) {
    if (op.shift.mixes == 1) return norm_shift<T, K, 1>(stream, op);
    if (op.shift.mixes == kMaxMixes) return norm_shift<T, K, kMaxMixes>(stream, op);
    throw Error("internal: the CUDA kernels shift for 1 or 6 mixes");
  }
};
template <class T>
struct LayerNormForwardOp {
  static void run(const Stream& stream, const LayerNormForward& op) {
    by_octets<RunNorm, T>(op.weight.elements(), stream, op);
  }
};
// A row that is wider needs more registers for its mixes than there are; above kWideOctets a block
// whose threads have eight channels needs so many that it is alone on a multiprocessor, and above
// kWidestQuads one whose threads have four does too.
inline constexpr int64_t kWidestFused = 4096, kWideOctets = 2048, kWidestQuads = 3072;
template <class T>
struct NormShiftForwardOp {
  static void run(const Stream& stream, const NormShiftForward& op) {
    const int64_t width = op.norm.weight.elements();
    if (width % 8 == 0 && width > kWideOctets && width <= kWidestQuads) {
      return RunNorm<T, 4>::run(stream, op);
    }
    if (width <= kWidestFused) return by_octets<RunNorm, T>(width, stream, op);
    LayerNormForwardOp<T>::run(stream, op.norm);
    TokenShiftForwardOp<T>::run(stream, op.shift);
  }
};

}  // namespace rwkv::cuda
