#include "core/data/token_stream.h"

#include <fmt/format.h>

#include "core/base/error.h"

namespace rwkv {

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number);
  const size_t sign = number < 0 ? 1 : 0;
  for (size_t i = digits.size(); i > sign + 3;) digits.insert(i -= 3, 1, ',');
  return digits;
}

void throw_out_of_vocab(const std::string& file, int64_t position, int64_t token, int64_t vocab) {
  throw InputError(fmt::format("{}: token {} at position {} is not below model.vocab {}", file,
                               token, position, vocab));
}

}  // namespace rwkv
