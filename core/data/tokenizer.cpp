#include "core/data/tokenizer.h"

#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "core/data/world_tokenizer.h"

namespace rwkv {
namespace {

class BytesTokenizer final : public Tokenizer {
 public:
  int64_t vocab() const override { return 257; }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> tokens;
    tokens.reserve(text.size());
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c) + 1);
    return tokens;
  }

  std::string decode(std::span<const int32_t> tokens) const override {
    std::string text;
    text.reserve(tokens.size());
    for (const int32_t token : tokens) {
      if (token == kEndToken) continue;
      if (token > 0 && token < vocab()) {
        text += static_cast<char>(token - 1);
      } else {
        text += kNoText;
      }
    }
    return text;
  }
};

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& spec) {
  constexpr std::string_view kWorld = "world:";
  if (spec == "bytes") return std::make_unique<BytesTokenizer>();
  if (spec.starts_with(kWorld) && spec.size() > kWorld.size()) {
    const std::string path = spec.substr(kWorld.size());
    return make_world_tokenizer(read_file(path), path);
  }
  throw InputError(fmt::format("data.tokenizer: expected bytes or world:PATH, got '{}'", spec));
}

}  // namespace rwkv
