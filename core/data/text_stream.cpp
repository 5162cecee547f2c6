#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "core/data/token_stream.h"
#include "core/data/tokenizer.h"

namespace rwkv {
namespace {

// Tokens of a whole text, the end token behind it. Elements of T, `shift` below their token.
class TextStream : public TokenStream {
 public:
  TextStream(std::string path, int64_t vocab) : path_(std::move(path)), vocab_(vocab) {}

  int64_t size() const final { return text_tokens() + 1; }

  void read(int64_t begin, std::span<int32_t> out) const final {
    require(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= size(),
            "tokens outside the stream");
    const auto of_text = static_cast<size_t>(
        std::clamp<int64_t>(text_tokens() - begin, 0, static_cast<int64_t>(out.size())));
    read_text(begin, out.first(of_text));
    std::ranges::fill(out.subspan(of_text), kEndToken);
  }

  void read_starts(int64_t begin, std::span<int32_t> out) const final {
    if (out.empty()) return;
    if (begin == 0) out[0] = 1;
    const size_t first = begin == 0 ? 1 : 0;  // whose token has one before it
    read(begin + static_cast<int64_t>(first) - 1, out.subspan(first));
    for (int32_t& before : out.subspan(first)) before = before == kEndToken ? 1 : 0;
  }

  std::string describe() const final {
    return fmt::format("text {}, {} tokens", path_, with_commas(size()));
  }

 protected:
  virtual int64_t text_tokens() const = 0;
  virtual void read_text(int64_t begin, std::span<int32_t> out) const = 0;

  std::string path_;
  int64_t vocab_;
};

class BytesStream final : public TextStream {
 public:
  BytesStream(const std::string& path, int64_t vocab) : TextStream(path, vocab), file_(path) {}

 private:
  int64_t text_tokens() const override { return static_cast<int64_t>(file_.bytes().size()); }
  void read_text(int64_t begin, std::span<int32_t> out) const override {
    copy_tokens<uint8_t>(file_.bytes(), begin, out, 1, vocab_, path_);
  }

  MappedFile file_;
};

class EncodedStream final : public TextStream {
 public:
  EncodedStream(const std::string& path, const Tokenizer& tokenizer, int64_t vocab)
      : TextStream(path, vocab), tokens_(tokenizer.encode(read_file(path))) {}

 private:
  int64_t text_tokens() const override { return static_cast<int64_t>(tokens_.size()); }
  void read_text(int64_t begin, std::span<int32_t> out) const override {
    copy_tokens<int32_t>(std::as_bytes(std::span(tokens_)), begin, out, 0, vocab_, path_);
  }

  std::vector<int32_t> tokens_;
};

}  // namespace

std::unique_ptr<TokenStream> open_text(const std::string& path, const std::string& tokenizer,
                                       int64_t vocab) {
  if (tokenizer == "bytes") return std::make_unique<BytesStream>(path, vocab);
  return std::make_unique<EncodedStream>(path, *make_tokenizer(tokenizer), vocab);
}

}  // namespace rwkv
