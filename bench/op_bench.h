// What the programs that time single ops share: tensors of a backend's memory, and seconds a call.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <list>
#include <vector>

#include "kernels/backend.h"

namespace rwkv::bench {

class Bench {
 public:
  explicit Bench(const Backend& ops) : ops_(ops), scratch_(int64_t{128} << 20, *ops.memory) {
    stream_.scratch = scratch_.data();
    stream_.scratch_bytes = scratch_.bytes();
  }
  const Backend& ops() const { return ops_; }
  const Stream& stream() const { return stream_; }

  // Normal numbers times `scale`, in memory that lives until clear().
  Tensor tensor(DType type, const Shape& shape, float scale) {
    Buffer& room = buffers_.emplace_back(shape.elements() * bytes_of(type), *ops_.memory);
    Buffer& wide = buffers_.emplace_back(shape.elements() * 4, *ops_.memory);
    constexpr int64_t kFresh = int64_t{1} << 20;  // the rest repeats them: made in no time
    std::vector<float> values(static_cast<size_t>(std::min(kFresh, shape.elements())));
    uint64_t state = 88172645463325252u;
    for (float& x : values) {
      // Sums of four uniform numbers: near enough to normal.
      float sum = 0;
      for (int i = 0; i < 4; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += static_cast<float>(state >> 40) / 16777216.0f - 0.5f;
      }
      x = scale * sum * 1.7320508f;
    }
    const Tensor floats{wide.data(), DType::kF32, shape}, out{room.data(), type, shape};
    auto there = static_cast<int64_t>(values.size()) * 4;
    const auto* from = reinterpret_cast<const std::byte*>(values.data());
    for (int64_t at = 0; at < floats.bytes(); from = floats.data) {
      const int64_t bytes = std::min(there, floats.bytes() - at);
      ops_.memory->copy(stream_, floats.data + at, from, bytes);
      at += bytes;
      there = at;
    }
    if (type == DType::kF32) return floats;
    ops_.cast(stream_, {floats, out});
    ops_.memory->wait(stream_);
    buffers_.pop_back();
    return out;
  }
  void clear() { buffers_.clear(); }

  // Seconds a call, the best of some batches of calls.
  double seconds(const std::function<void()>& call) const {
    call();
    ops_.memory->wait(stream_);
    double best = 1e9;
    int calls = 1;
    for (int round = 0; round < 4; ++round) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < calls; ++i) call();
      ops_.memory->wait(stream_);
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      best = std::min(best, taken.count() / calls);
      calls = std::max(1, static_cast<int>(0.03 / best));
    }
    return best;
  }

 private:
  const Backend& ops_;
  Buffer scratch_;
  Stream stream_;
  std::list<Buffer> buffers_;
};

// Element-wise ops of both mixers, AdamW and the loss, as GB/s of what each has to move.
void elementwise_ops(Bench&, int64_t rows, int64_t width);

}  // namespace rwkv::bench
