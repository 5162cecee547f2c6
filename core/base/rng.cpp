#include "core/base/rng.h"

#include <Random123/philox.h>

#include <cmath>
#include <numbers>

#include "core/base/hash.h"

namespace rwkv {

__extension__ typedef unsigned __int128 Word128;

Philox::Philox(uint64_t seed, std::string_view name) : key_(hash64(name, seed)) {}

std::array<uint32_t, 4> Philox::words(uint64_t counter, uint64_t high) const {
  const r123::Philox4x32::ctr_type c{
      {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
       static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32)}};
  const r123::Philox4x32::key_type k{
      {static_cast<uint32_t>(key_), static_cast<uint32_t>(key_ >> 32)}};
  const auto w = r123::Philox4x32()(c, k);
  return {w[0], w[1], w[2], w[3]};
}

double Philox::uniform(uint64_t counter, uint64_t high, int lane) const {
  const auto w = words(counter, high);
  const uint64_t bits = lane == 0 ? (uint64_t{w[0]} << 32 | w[1]) : (uint64_t{w[2]} << 32 | w[3]);
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

double Philox::normal(uint64_t counter, uint64_t high) const {
  const double u = 1.0 - uniform(counter, high, 0);  // (0, 1]: the logarithm is finite
  const double v = uniform(counter, high, 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

uint64_t Philox::below(uint64_t n, uint64_t counter, uint64_t high) const {
  const auto w = words(counter, high);
  const uint64_t bits = uint64_t{w[0]} << 32 | w[1];
  return static_cast<uint64_t>((static_cast<Word128>(bits) * n) >> 64);
}

}  // namespace rwkv
