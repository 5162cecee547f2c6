#pragma once

#include "kernels/cpu/isa/vector.h"
#include "kernels/dropout.h"

namespace rwkv::cpu::RWKV_ISA {

template <class T>
void dropout(const Stream& stream, const Dropout& op) {
  const int64_t tokens = op.x.shape[1], width = op.x.shape[2];
  const T* x = op.x.as<T>();
  T* out = op.out.as<T>();
  const DropoutPlace place(op);
  const uint32_t threshold = dropout_threshold(op.rate);
  const auto scale = static_cast<float>(1 / (1 - op.rate));
  for_blocks(stream, op.x.shape[0] * tokens, kRowBlock, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const PhiloxWords words = place.words(r / tokens, r % tokens, c / kDropoutRun);
        const int64_t lane = c % kDropoutRun;
        const uint32_t word = lane == 0   ? words.x[0]
                              : lane == 1 ? words.x[1]
                              : lane == 2 ? words.x[2]
                                          : words.x[3];
        store(out[r * width + c], word < threshold ? 0.0f : load(x[r * width + c]) * scale);
      }
    }
  });
}

}  // namespace rwkv::cpu::RWKV_ISA
