// Text to tokens and back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv {

inline constexpr int32_t kEndToken = 0;  // end of a document, and what a prompt starts with

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int64_t vocab() const = 0;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  virtual std::string decode(std::span<const int32_t> tokens) const = 0;  // token 0 gives nothing
};

// "bytes": id = byte + 1, 0 = end, vocab 257. "world:PATH": the RWKV World vocabulary (an exact
// superset of bytes). Throws InputError.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& spec);

}  // namespace rwkv
