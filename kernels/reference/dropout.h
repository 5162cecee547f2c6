#pragma once

#include "core/base/rng.h"
#include "core/base/stream.h"
#include "kernels/dropout.h"

namespace rwkv::reference {

template <class S>
void dropout(const Stream&, const Dropout& op) {
  const int64_t tokens = op.x.shape[1], width = op.x.shape[2];
  const Philox random(op.key);
  for (int64_t i = 0; i < op.x.elements(); ++i) {
    const int64_t c = i % width, t = i / width % tokens, b = i / width / tokens;
    const uint64_t low = static_cast<uint64_t>(op.position + t) << 32 |
                         static_cast<uint64_t>(op.layer) << 16 | static_cast<uint64_t>(c / 4);
    const uint64_t high = static_cast<uint64_t>(op.site) << 60 |
                          static_cast<uint64_t>(op.step) << 32 |
                          static_cast<uint64_t>(op.sample + b);
    const double uniform = random.words(low, high)[static_cast<size_t>(c % 4)] * 0x1.0p-32;
    op.out.as<S>()[i] = uniform < op.rate ? S(0) : op.x.as<S>()[i] / S(1 - op.rate);
  }
}

}  // namespace rwkv::reference
