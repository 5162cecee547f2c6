// Rotary positions, and the rows of attention that go to the right neighbour.
#pragma once

#include <cmath>
#include <numbers>

#include "kernels/attention.h"
#include "kernels/cpu/isa/vector.h"

namespace rwkv::cpu::RWKV_ISA {

template <class T>
void rope(const Stream& stream, const Rope& op) {
  const int64_t heads = op.x.shape[2], size = op.x.shape[3], half = size / 2;
  const T* x = op.x.as<T>();
  T* out = op.out.as<T>();
  const double* turns = op.turns.as<double>();
  for_blocks(stream, op.x.shape[0] * op.x.shape[1], kRowBlock, [&](int64_t begin, int64_t end) {
    float cosine[kAttentionMaxHead / 2], sine[kAttentionMaxHead / 2];
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = 0; i < half; ++i) {
        const double turn = op.positions.as<int32_t>()[r] * turns[i];
        const auto angle = static_cast<float>(2 * std::numbers::pi * (turn - std::floor(turn)));
        cosine[i] = std::cos(angle);
        sine[i] = op.back ? -std::sin(angle) : std::sin(angle);
      }
      for (int64_t h = 0; h < heads; ++h) {
        const T* from = x + (r * heads + h) * size;
        T* to = out + (r * heads + h) * size;
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          const float low = load(from[i]), high = load(from[i + half]);
          store(to[i], low * cosine[i] - high * sine[i]);
          store(to[i + half], low * sine[i] + high * cosine[i]);
        }
      }
    }
  });
}

template <class T>
void attention_halo(const Stream& stream, const AttentionHalo& op) {
  const int64_t wanted = op.out.shape[1], tokens = op.own.shape[1];
  const int64_t row = op.own.shape[2] * op.own.shape[3];
  const int64_t left = op.left.empty() ? 0 : op.left.shape[1];
  for_blocks(stream, op.out.shape[0] * wanted, kRowBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / wanted, r = left + tokens - wanted + i % wanted;
      const T* from = r < left ? op.left.as<T>() + (b * left + r) * row
                               : op.own.as<T>() + (b * tokens + r - left) * row;
      std::memcpy(op.out.as<T>() + i * row, from, static_cast<size_t>(row) * sizeof(T));
    }
  });
}

}  // namespace rwkv::cpu::RWKV_ISA
