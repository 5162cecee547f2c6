// One hash for names, files and final weights: XXH3, 64 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace rwkv {

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed = 0);
uint64_t hash64(std::string_view text, uint64_t seed = 0);
std::string to_hex(uint64_t);  // 16 digits

// hash64() of bytes that come in pieces.
class Hasher {
 public:
  Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  ~Hasher();
  void add(std::span<const std::byte> bytes);
  uint64_t result() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rwkv
