#include "core/data/samplers.h"

#include <fmt/format.h>

#include <bit>
#include <limits>

#include "core/base/error.h"
#include "core/base/rng.h"

namespace rwkv {
namespace {

__extension__ using Wide = unsigned __int128;

class SequentialSampler final : public Sampler {
 public:
  SequentialSampler(int64_t batch, int64_t size) : batch_(batch), size_(size) {}
  int64_t sample(int64_t step, int64_t slot) const override {
    return (step * batch_ + slot) % size_;
  }

 private:
  int64_t batch_, size_;
};

// A Feistel network permutes the smallest power of four that holds all samples; what falls outside
// is sent through again until it falls inside, which leaves a permutation of the samples.
class ShuffleSampler final : public Sampler {
 public:
  ShuffleSampler(int64_t batch, int64_t size, uint64_t seed)
      : batch_(batch),
        size_(size),
        half_bits_((static_cast<int>(std::bit_width(static_cast<uint64_t>(size - 1))) + 1) / 2),
        random_(seed, "data.shuffle") {}

  int64_t sample(int64_t step, int64_t slot) const override {
    const int64_t count = step * batch_ + slot;
    const auto epoch = static_cast<uint64_t>(count / size_);
    auto value = static_cast<uint64_t>(count % size_);
    do {
      value = permuted(value, epoch);
    } while (value >= static_cast<uint64_t>(size_));
    return static_cast<int64_t>(value);
  }

 private:
  uint64_t permuted(uint64_t value, uint64_t epoch) const {
    constexpr uint64_t kRounds = 6;
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = value >> half_bits_, right = value & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      // half_bits_ is at most 32: the round has the upper half of the counter for itself.
      const uint64_t mixed = left ^ (random_.words(round << 32 | right, epoch)[0] & mask);
      left = right;
      right = mixed;
    }
    return left << half_bits_ | right;
  }

  int64_t batch_, size_;
  int half_bits_;
  Philox random_;
};

class RwkvLmSampler final : public Sampler {
 public:
  RwkvLmSampler(int64_t batch, int64_t prime)
      : batch_(batch),
        prime_(static_cast<uint64_t>(prime)),
        factor_(static_cast<uint64_t>(golden_section(prime))) {}

  int64_t sample(int64_t step, int64_t slot) const override {
    const uint64_t i = static_cast<uint64_t>(step * batch_ + slot + 1) % prime_;
    return static_cast<int64_t>(product(factor_, product(i, product(i, i))));
  }

 private:
  uint64_t product(uint64_t a, uint64_t b) const {
    return static_cast<uint64_t>(Wide{a} * b % prime_);
  }

  int64_t batch_;
  uint64_t prime_, factor_;
};

bool is_prime(int64_t n) {
  if (n < 2) return false;
  for (int64_t d = 2; d <= n / d; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

// floor(sqrt(n)) for n < 2^127: Newton's iteration from above falls until it is there.
Wide integer_sqrt(Wide n) {
  if (n == 0) return 0;
  Wide root = Wide{1} << 64;
  for (;;) {
    const Wide next = (root + n / root) / 2;
    if (next >= root) return root;
    root = next;
  }
}

}  // namespace

int64_t largest_cubing_prime(int64_t limit) {
  for (int64_t p = limit; p >= 2; --p) {
    if (p % 3 == 2 && is_prime(p)) return p;
  }
  return 0;
}

int64_t golden_section(int64_t p) {
  require(p >= 0 && p < (int64_t{1} << 62), "golden_section: out of range");
  // floor((sqrt(5 p^2) - p) / 2): the fraction lost in the integer root is below one half of the
  // result's unit, so it cannot reach the next integer.
  const Wide wide = static_cast<Wide>(p);
  return static_cast<int64_t>((integer_sqrt(5 * wide * wide) - wide) / 2);
}

std::unique_ptr<Sampler> make_sequential_sampler(int64_t batch, int64_t size) {
  require(batch >= 1 && size >= 1, "a sampler needs samples");
  return std::make_unique<SequentialSampler>(batch, size);
}

std::unique_ptr<Sampler> make_shuffle_sampler(int64_t batch, int64_t size, uint64_t seed) {
  require(batch >= 1 && size >= 1, "a sampler needs samples");
  if (size == std::numeric_limits<int64_t>::max()) return make_sequential_sampler(batch, size);
  return std::make_unique<ShuffleSampler>(batch, size, seed);
}

std::unique_ptr<Sampler> make_rwkv_lm_sampler(int64_t batch, int64_t tokens, int64_t context) {
  require(batch >= 1 && context >= 1, "a sampler needs samples");
  const int64_t prime = largest_cubing_prime(tokens / context - 1);
  if (prime == 0) {
    throw InputError(
        fmt::format("data.sampler: rwkv_lm needs {} tokens for train.context {}, the "
                    "training data holds {}",
                    3 * context, context, tokens));
  }
  return std::make_unique<RwkvLmSampler>(batch, prime);
}

}  // namespace rwkv
