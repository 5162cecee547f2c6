#include "core/base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/error.h"

namespace rwkv {

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

uint64_t hash64(std::string_view text, uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

std::string to_hex(uint64_t value) {
  std::string out(16, '0');
  for (int i = 15; i >= 0; --i, value >>= 4) {
    out[static_cast<size_t>(i)] = "0123456789abcdef"[value & 15];
  }
  return out;
}

struct Hasher::State {
  XXH3_state_t of_library;
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
  require(XXH3_64bits_reset(&state_->of_library) == XXH_OK, "a hash starts");
}

Hasher::~Hasher() = default;

void Hasher::add(std::span<const std::byte> bytes) {
  require(XXH3_64bits_update(&state_->of_library, bytes.data(), bytes.size()) == XXH_OK,
          "a hash goes on");
}

uint64_t Hasher::result() const { return XXH3_64bits_digest(&state_->of_library); }

}  // namespace rwkv
