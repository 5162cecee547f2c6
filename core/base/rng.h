// Counter-based random numbers (Philox 4x32-10; Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). The same (key, counter) gives the same number on any rank, in any order.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace rwkv {

class Philox {
 public:
  explicit Philox(uint64_t key) : key_(key) {}
  // A stream of its own for each (seed, name).
  Philox(uint64_t seed, std::string_view name);

  // Four random words for a 128-bit counter.
  std::array<uint32_t, 4> words(uint64_t counter, uint64_t high = 0) const;

  // Uniform in [0, 1) with 53 bits; two independent values live under one counter (lane 0, 1).
  double uniform(uint64_t counter, uint64_t high = 0, int lane = 0) const;

  // Standard normal (Box-Muller over both lanes).
  double normal(uint64_t counter, uint64_t high = 0) const;

  // Uniform integer in [0, n), n >= 1; multiply-shift, bias below 2^-32 for n < 2^32.
  uint64_t below(uint64_t n, uint64_t counter, uint64_t high = 0) const;

 private:
  uint64_t key_;
};

}  // namespace rwkv
