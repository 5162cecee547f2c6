// One long run of tokens in a file, and how bytes in memory become tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>

namespace rwkv {

// const and thread-safe.
class TokenStream {
 public:
  virtual ~TokenStream() = default;
  // Tokens in the stream.
  virtual int64_t size() const = 0;
  // Fills `out` with the tokens from `begin` on; all must lie in the stream. Throws InputError
  // naming file, position and token when one is not in [0, vocab).
  virtual void read(int64_t begin, std::span<int32_t> out) const = 0;
  // Fills `out` with 1 where a document starts at a token from `begin` on, else 0. A text's
  // documents end with the end token, a binidx's are its sequences; the first starts at token 0.
  virtual void read_starts(int64_t begin, std::span<int32_t> out) const = 0;
  // "text corpus.txt, 1,234,567 tokens"
  virtual std::string describe() const = 0;
};

// A file of text in the given tokenizer's tokens, then the end token. Under "bytes" the file is
// mapped, else its tokens are held in memory.
std::unique_ptr<TokenStream> open_text(const std::string& path, const std::string& tokenizer,
                                       int64_t vocab);

// `prefix`.bin and `prefix`.idx, mapped; see binidx_index.h.
std::unique_ptr<TokenStream> open_binidx(const std::string& prefix, int64_t vocab);

// "1,234,567"
std::string with_commas(int64_t);

[[noreturn]] void throw_out_of_vocab(const std::string& file, int64_t position, int64_t token,
                                     int64_t vocab);

// Copies the elements [begin, begin + out.size()) of an unaligned array of T, adding `shift` to
// each. `file` is for the error.
template <class T>
void copy_tokens(std::span<const std::byte> array, int64_t begin, std::span<int32_t> out,
                 int64_t shift, int64_t vocab, const std::string& file) {
  const std::byte* from = array.data() + static_cast<size_t>(begin) * sizeof(T);
  for (size_t i = 0; i < out.size(); ++i, from += sizeof(T)) {
    T element;
    std::memcpy(&element, from, sizeof(T));
    const int64_t token = shift + static_cast<int64_t>(element);
    if (token < 0 || token >= vocab) [[unlikely]] {
      throw_out_of_vocab(file, begin + static_cast<int64_t>(i), token, vocab);
    }
    out[i] = static_cast<int32_t>(token);
  }
}

}  // namespace rwkv
