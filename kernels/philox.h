// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) for
// kernels of every backend: what core/base/rng.h gives, where no library's function can be called.
#pragma once

#include <cstdint>

namespace rwkv {

struct PhiloxWords {
  uint32_t x[4];
};

// Always inlined: files that are compiled once per instruction set call it.
[[gnu::always_inline]] inline constexpr PhiloxWords philox(const PhiloxWords& counter,
                                                           uint64_t key) {
  PhiloxWords c = counter;
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * c.x[0], p1 = uint64_t{0xcd9e8d57u} * c.x[2];
    c = {{static_cast<uint32_t>(p1 >> 32) ^ c.x[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c.x[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return c;
}

}  // namespace rwkv
