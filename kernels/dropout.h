// Dropout: an element becomes 0 with probability `rate`, else x / (1 - rate). Whether it does
// depends on its place in training alone, never on a batch, rank or segment; so the gradient's way
// is the same op again, and nothing is kept for it.
// No block uses it yet (docs/recipe.md, "not yet"); tests and benchmarks do.
#pragma once

#include "core/base/tensor.h"
#include "kernels/philox.h"

namespace rwkv {

struct Dropout {
  ConstTensor x;         // (B, T, C)
  Tensor out;            // (B, T, C); may be x
  double rate = 0;       // in [0, 1)
  uint64_t key = 0;      // of the run: from its seed
  int64_t step = 0;      // updates done, below 2^28
  int64_t sample = 0;    // of row 0 in the step's batch, below 2^32; others follow it
  int64_t position = 0;  // of token 0 in its sample, below 2^32; others follow it
  int64_t layer = 0;     // below 2^16
  int64_t site = 0;      // in its layer, below 2^4
};

// An element is dropped when its random word is below this.
[[gnu::always_inline]] inline uint32_t dropout_threshold(double rate) {
  return static_cast<uint32_t>(rate * 0x1.0p32);
}

inline constexpr int64_t kDropoutRun = 4;  // channels whose random words one counter gives

// What is the same for all elements.
struct DropoutPlace {
  uint64_t key;
  uint32_t sample, position, layer, end;

  [[gnu::always_inline]] explicit DropoutPlace(const Dropout& op)
      : key(op.key),
        sample(static_cast<uint32_t>(op.sample)),
        position(static_cast<uint32_t>(op.position)),
        layer(static_cast<uint32_t>(op.layer) << 16),
        end(static_cast<uint32_t>(op.site) << 28 | static_cast<uint32_t>(op.step)) {}

  // The words of channels kDropoutRun run ... of token t of row b.
  [[gnu::always_inline]] constexpr PhiloxWords words(int64_t b, int64_t t, int64_t run) const {
    return philox({{layer | static_cast<uint32_t>(run), position + static_cast<uint32_t>(t),
                    sample + static_cast<uint32_t>(b), end}},
                  key);
  }
};

}  // namespace rwkv
