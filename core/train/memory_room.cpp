#include "core/train/memory_room.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/train/console.h"

namespace rwkv {

void require_room(const Memory& memory, const std::vector<Arena::Entry>& entries) {
  const int64_t free = memory.available();
  int64_t wanted = 0;
  for (const Arena::Entry& entry : entries) wanted += entry.bytes;
  if (free < 0 || wanted <= free) return;
  std::vector<Arena::Entry> largest = entries;
  std::stable_sort(largest.begin(), largest.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  std::string table;
  for (const Arena::Entry& entry : largest) {
    table += fmt::format("\n  {:>10}  {}", human_bytes(entry.bytes), entry.name);
  }
  throw InputError(fmt::format(
      "out of {} memory before step 1: {} are planned a rank, {} are free. Less is wanted with a "
      "smaller train.micro_batch or train.chunk, train.recompute=block, train.stash=sqrt, "
      "parallel.shard=optimizer, or more parallel.sequence. The plan:{}",
      memory.name, human_bytes(wanted), human_bytes(free), table));
}

}  // namespace rwkv
