// Rotary positions, and the rows of attention that go to the right neighbour.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/device.h"

namespace rwkv::cuda {

// A thread a pair of a token, all heads: the angle is worked out once.
template <class T>
struct RopePair {
  const T* x;
  const int32_t* positions;
  const double* turns;
  T* out;
  int64_t heads, half;
  float sign;

  RWKV_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / half, pair = i % half;
    const double turn = positions[row] * turns[pair];
    const auto angle = static_cast<float>(6.283185307179586 * (turn - floor(turn)));
    const float cosine = cosf(angle), sine = sign * sinf(angle);
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = (row * heads + h) * 2 * half + pair;
      const float low = load(x + at), high = load(x + at + half);
      store(out + at, low * cosine - high * sine);
      store(out + at + half, low * sine + high * cosine);
    }
  }
};
template <class T>
struct RopeOp {
  static void run(const Stream& stream, const Rope& op) {
    const int64_t half = op.x.shape[3] / 2;
    for_each(stream, op.x.shape[0] * op.x.shape[1] * half,
             RopePair<T>{in<T>(op.x), in<int32_t>(op.positions), in<double>(op.turns),
                         out<T>(op.out), op.x.shape[2], half, op.back ? -1.0f : 1.0f});
  }
};

template <class T>
struct AttentionHaloElement {
  const T *left, *own;
  T* out;
  int64_t row, wanted, behind, tokens;

  RWKV_DEVICE void operator()(int64_t i) const {
    const int64_t b = i / row / wanted, r = behind + tokens - wanted + i / row % wanted;
    out[i] = r < behind ? left[(b * behind + r) * row + i % row]
                        : own[(b * tokens + r - behind) * row + i % row];
  }
};
template <class T>
struct AttentionHaloOp {
  static void run(const Stream& stream, const AttentionHalo& op) {
    for_each(stream, op.out.elements(),
             AttentionHaloElement<T>{in<T>(op.left), in<T>(op.own), out<T>(op.out),
                                     op.own.shape[2] * op.own.shape[3], op.out.shape[1],
                                     op.left.empty() ? 0 : op.left.shape[1], op.own.shape[1]});
  }
};

}  // namespace rwkv::cuda
