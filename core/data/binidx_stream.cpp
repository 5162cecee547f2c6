#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "core/data/binidx_index.h"
#include "core/data/token_stream.h"

namespace rwkv {
namespace {

class BinidxStream final : public TokenStream {
 public:
  BinidxStream(const std::string& prefix, int64_t vocab)
      : prefix_(prefix),
        bin_path_(prefix + ".bin"),
        vocab_(vocab),
        bin_(bin_path_),
        idx_(prefix + ".idx") {
    index_ = parse_binidx_index(idx_.bytes(), static_cast<int64_t>(bin_.bytes().size()),
                                prefix + ".idx");
  }

  int64_t size() const override { return index_.tokens; }

  void read(int64_t begin, std::span<int32_t> out) const override {
    require(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= size(),
            "tokens outside the stream");
    switch (index_.type) {
      case BinidxType::kU8:
        return copy<uint8_t>(begin, out);
      case BinidxType::kI8:
        return copy<int8_t>(begin, out);
      case BinidxType::kI16:
        return copy<int16_t>(begin, out);
      case BinidxType::kI32:
        return copy<int32_t>(begin, out);
      case BinidxType::kI64:
        return copy<int64_t>(begin, out);
      case BinidxType::kU16:
        return copy<uint16_t>(begin, out);
    }
  }

  void read_starts(int64_t begin, std::span<int32_t> out) const override {
    std::ranges::fill(out, 0);
    const int64_t end = begin + static_cast<int64_t>(out.size());
    for (int64_t i = index_.first_sequence_from(begin); i < index_.sequences; ++i) {
      const int64_t token = index_.first_token(i);
      if (token >= end) break;
      out[static_cast<size_t>(token - begin)] = 1;
    }
  }

  std::string describe() const override {
    return fmt::format("binidx {}, {} tokens", prefix_, with_commas(size()));
  }

 private:
  template <class T>
  void copy(int64_t begin, std::span<int32_t> out) const {
    copy_tokens<T>(bin_.bytes(), begin, out, 0, vocab_, bin_path_);
  }

  std::string prefix_, bin_path_;
  int64_t vocab_;
  MappedFile bin_, idx_;
  BinidxIndex index_;  // of idx_
};

}  // namespace

std::unique_ptr<TokenStream> open_binidx(const std::string& prefix, int64_t vocab) {
  return std::make_unique<BinidxStream>(prefix, vocab);
}

}  // namespace rwkv
