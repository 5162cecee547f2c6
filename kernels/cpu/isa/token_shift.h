// Token shift and its halo rows.
#pragma once

#include "kernels/cpu/isa/token_sum.h"
#include "kernels/cpu/isa/vector.h"
#include "kernels/documents.h"
#include "kernels/token_shift.h"

namespace rwkv::cpu::RWKV_ISA {

// Channels [begin, end) of the row before row r = b T + t, as floats.
template <class T>
[[gnu::always_inline]] inline void read_row_before(const ConstTensor& u, const ConstTensor& halo,
                                                   const ConstTensor& starts, int64_t r,
                                                   int64_t begin, int64_t end, float* to) {
  const int64_t tokens = u.shape[1], width = u.shape[2];
  if (starts_at(starts, r)) {
    std::memset(to, 0, static_cast<size_t>(end - begin) * sizeof(float));
  } else if (r % tokens == 0) {
    const float* edge = halo.as<float>() + r / tokens * width;
    for (int64_t c = begin; c < end; ++c) to[c - begin] = edge[c];
  } else {
    const T* before = u.as<T>() + (r - 1) * width;
#pragma omp simd
    for (int64_t c = begin; c < end; ++c) to[c - begin] = load(before[c]);
  }
}

template <class T>
void token_shift_forward(const Stream& stream, const TokenShiftForward& op) {
  const int64_t width = op.u.shape[2], rows = op.u.shape[0] * op.u.shape[1];
  const T* u = op.u.as<T>();
  for_blocks(stream, rows, kRowBlock, [&](int64_t begin, int64_t end) {
    float before[kColumnBlock];
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t first = 0; first < width; first += kColumnBlock) {
        const int64_t last = first + kColumnBlock < width ? first + kColumnBlock : width;
        read_row_before<T>(op.u, op.halo, op.starts, r, first, last, before);
        const T* now = u + r * width;
        for (int m = 0; m < op.mixes; ++m) {
          const auto j = static_cast<size_t>(m);
          const float* mix = op.mix[j].template as<float>();
          T* out = op.out[j].template as<T>() + r * width;
#pragma omp simd
          for (int64_t c = first; c < last; ++c) {
            store(out[c], load(now[c]) + (before[c - first] - load(now[c])) * mix[c]);
          }
        }
      }
    }
  });
}

template <class T>
void halo_forward(const Stream&, const HaloForward& op) {
  const int64_t batch = op.u.shape[0], tokens = op.u.shape[1], width = op.u.shape[2];
  float* out = op.out.as<float>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t c = 0; c < width; ++c) {
      out[b * width + c] = op.at < 0 ? 0.0f : load(op.u.as<T>()[(b * tokens + op.at) * width + c]);
    }
  }
}

// What the mixes of channels [begin, end) of one row pass to the row itself and to the one before.
template <class T>
[[gnu::always_inline]] inline void split_gradient(const std::array<const T*, kMaxMixes>& g,
                                                  const std::array<const float*, kMaxMixes>& mix,
                                                  int mixes, int64_t row, int64_t begin,
                                                  int64_t end, float* own, float* left) {
  for (int64_t i = 0; i < end - begin; ++i) own[i] = left[i] = 0;
  for (int m = 0; m < mixes; ++m) {
    const auto j = static_cast<size_t>(m);
    const T* gradient = g[j] + row;
    const float* weight = mix[j];
#pragma omp simd
    for (int64_t c = begin; c < end; ++c) {
      const float d = load(gradient[c]);
      own[c - begin] += d * (1.0f - weight[c]);
      left[c - begin] += d * weight[c];
    }
  }
}

template <class T, class Op>
[[gnu::always_inline]] inline void read_mixes(const Op& op, std::array<const T*, kMaxMixes>& g,
                                              std::array<const float*, kMaxMixes>& mix) {
  for (size_t j = 0; j < static_cast<size_t>(op.mixes); ++j) {
    g[j] = op.dout[j].template as<T>();
    mix[j] = op.mix[j].template as<float>();
  }
}

template <class T>
void halo_backward(const Stream&, const HaloBackward& op) {
  const int64_t batch = op.dout[0].shape[0], tokens = op.dout[0].shape[1];
  const int64_t width = op.dout[0].shape[2];
  std::array<const T*, kMaxMixes> g{};
  std::array<const float*, kMaxMixes> mix{};
  read_mixes<T>(op, g, mix);
  for (int64_t b = 0; b < batch; ++b) {
    float* dhalo = op.dhalo.as<float>() + b * width;
    if (starts_at(op.starts, b * tokens)) {
      std::memset(dhalo, 0, static_cast<size_t>(width) * sizeof(float));
      continue;
    }
    for (int64_t begin = 0; begin < width; begin += kColumnBlock) {
      const int64_t end = begin + kColumnBlock < width ? begin + kColumnBlock : width;
      float own[kColumnBlock], left[kColumnBlock];
      split_gradient<T>(g, mix, op.mixes, b * tokens * width, begin, end, own, left);
      for (int64_t c = begin; c < end; ++c) dhalo[c] = left[c - begin];
    }
  }
}

// Gradients of the mixes: channels [begin, end), all rows in order.
template <class T>
void token_shift_mix_gradients(const TokenShiftBackward& op, int64_t begin, int64_t end) {
  const int64_t width = op.u.shape[2], rows = op.u.shape[0] * op.u.shape[1];
  const T* u = op.u.as<T>();
  float difference[kMostChannels];
  float dmix[kMaxMixes][kMostChannels] = {};
  int64_t behind = op.leaves.end(0, rows);
  for (int64_t r = 0; r < rows; ++r) {
    const T* now = u + r * width;
    read_row_before<T>(op.u, op.halo, op.starts, r, begin, end, difference);
#pragma omp simd
    for (int64_t c = begin; c < end; ++c) difference[c - begin] -= load(now[c]);
    for (int m = 0; m < op.mixes; ++m) {
      const auto j = static_cast<size_t>(m);
      const T* g = op.dout[j].template as<T>() + r * width + begin;
#pragma omp simd
      for (int64_t c = 0; c < end - begin; ++c) dmix[m][c] += load(g[c]) * difference[c];
    }
    if (r + 1 < behind) continue;
    for (int m = 0; m < op.mixes; ++m) {
      add_partials(op.dmix[static_cast<size_t>(m)], begin, dmix[m], end - begin);
    }
    std::memset(dmix, 0, sizeof dmix);
    if (behind < rows) behind = op.leaves.end(behind, rows);
  }
}

template <class T>
void token_shift_backward(const Stream& stream, const TokenShiftBackward& op) {
  const int64_t batch = op.u.shape[0], tokens = op.u.shape[1], width = op.u.shape[2];
  std::array<const T*, kMaxMixes> g{};
  std::array<const float*, kMaxMixes> mix{};
  read_mixes<T>(op, g, mix);
  T* du = op.du.as<T>();
  const float* from_right = op.dhalo_out.as<float>();
  const int64_t channels = channels_a_thread(stream, width);
  for_blocks(stream, width, channels,
             [&](int64_t begin, int64_t end) { token_shift_mix_gradients<T>(op, begin, end); });
  for_blocks(stream, width, channels, [&](int64_t begin, int64_t end) {
    for (int64_t b = 0; b < batch; ++b) {
      float carried[kMostChannels] = {}, own[kMostChannels], left[kMostChannels];
      for (int64_t t = tokens - 1; t >= 0; --t) {
        const int64_t row = (b * tokens + t) * width;
        split_gradient<T>(g, mix, op.mixes, row, begin, end, own, left);
        if (from_right != nullptr && t == op.at) {
          for (int64_t c = begin; c < end; ++c) carried[c - begin] += from_right[b * width + c];
        }
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) {
          store(du[row + c], own[c - begin] + carried[c - begin]);
          carried[c - begin] = left[c - begin];
        }
        if (starts_at(op.starts, b * tokens + t)) {
          std::memset(carried, 0, static_cast<size_t>(end - begin) * sizeof(float));
        }
      }
    }
  });
}

}  // namespace rwkv::cpu::RWKV_ISA
