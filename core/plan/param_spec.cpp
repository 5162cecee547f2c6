#include "core/plan/param_spec.h"

#include <algorithm>

namespace rwkv {

int64_t count_elements(std::span<const ParamSpec> specs) {
  int64_t n = 0;
  for (const ParamSpec& spec : specs) n += spec.shape.elements();
  return n;
}

std::vector<Extent> shard(std::span<const ParamSpec> specs, int parts, int index) {
  require(parts >= 1 && index >= 0 && index < parts, "shard index out of range");
  const int64_t total = count_elements(specs);
  const int64_t first = total * index / parts;
  const int64_t last = total * (index + 1) / parts;
  std::vector<Extent> out;
  int64_t offset = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    const int64_t n = specs[i].shape.elements();
    const int64_t begin = std::max(first - offset, int64_t{0});
    const int64_t end = std::min(last - offset, n);
    if (begin < end) out.push_back({static_cast<int>(i), begin, end});
    offset += n;
  }
  return out;
}

}  // namespace rwkv
