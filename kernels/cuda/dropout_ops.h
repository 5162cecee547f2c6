// Dropout: a thread the channels whose random words one counter gives.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/dropout.h"

namespace rwkv::cuda {

template <class T>
struct DropoutRun {
  const T* x;
  T* out;
  DropoutPlace place;
  int64_t tokens, width, runs;  // runs: of a token
  uint32_t threshold;
  float scale;

  RWKV_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / runs, run = i % runs;
    const PhiloxWords words = place.words(row / tokens, row % tokens, run);
    for (int64_t j = 0; j < kDropoutRun; ++j) {
      const int64_t c = run * kDropoutRun + j, at = row * width + c;
      if (c < width) store(out + at, words.x[j] < threshold ? 0.0f : load(x + at) * scale);
    }
  }
};
template <class T>
struct DropoutOp {
  static void run(const Stream& stream, const Dropout& op) {
    const int64_t width = op.x.shape[2], runs = (width + kDropoutRun - 1) / kDropoutRun;
    for_each(
        stream, op.x.shape[0] * op.x.shape[1] * runs,
        DropoutRun<T>{in<T>(op.x), out<T>(op.out), DropoutPlace(op), op.x.shape[1], width, runs,
                      dropout_threshold(op.rate), static_cast<float>(1 / (1 - op.rate))});
  }
};

}  // namespace rwkv::cuda
