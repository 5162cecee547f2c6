// The orders in which training visits samples. All count i = step * batch + slot.
#pragma once

#include <cstdint>
#include <memory>

#include "core/data/source.h"

namespace rwkv {

// i modulo size.
std::unique_ptr<Sampler> make_sequential_sampler(int64_t batch, int64_t size);

// Each sample once an epoch, every epoch in another order given by (seed, epoch). Sources without
// an end (size INT64_MAX) are visited in order.
std::unique_ptr<Sampler> make_shuffle_sampler(int64_t batch, int64_t size, uint64_t seed);

// RWKV-LM's pretraining order: sample factor * (i + 1)^3 mod p. p is the largest prime with p mod 3
// = 2 that is at most tokens / context - 1, so that cubing is a bijection; factor is the golden
// section of p. Throws InputError when no such p exists, naming the tokens needed.
std::unique_ptr<Sampler> make_rwkv_lm_sampler(int64_t batch, int64_t tokens, int64_t context);

// The largest prime with p mod 3 = 2 at or below `limit`; 0 when there is none.
int64_t largest_cubing_prime(int64_t limit);
// floor(p * (sqrt(5) - 1) / 2), exact for p in [0, 2^62).
int64_t golden_section(int64_t p);

}  // namespace rwkv
