#include "core/base/arena.h"

#include <algorithm>

namespace rwkv {

Tensor Arena::take(std::string_view name, DType dtype, const Shape& shape) {
  const int64_t bytes = shape.elements() * bytes_of(dtype);
  const int64_t begin = aligned_bytes(used_);
  used_ = begin + bytes;
  if (measuring()) {
    live_.push_back({std::string(name), begin, bytes});
    if (used_ > peak_) peak_is_live_ = true;
  }
  peak_ = std::max(peak_, used_);
  if (measuring()) return {nullptr, dtype, shape};
  require(used_ <= capacity_, "the arena is smaller than its plan");
  return {base_ + begin, dtype, shape};
}

void Arena::rewind(int64_t mark) {
  used_ = mark;
  if (peak_is_live_) at_peak_ = live_;
  peak_is_live_ = false;
  while (!live_.empty() && live_.back().begin >= mark) live_.pop_back();
}

std::vector<Arena::Entry> Arena::entries() const {
  std::vector<Entry> out;
  for (const Piece& piece : peak_is_live_ ? live_ : at_peak_) {
    add_entries(out, {{piece.name, piece.bytes}});
  }
  return out;
}

void add_entries(std::vector<Arena::Entry>& entries, const std::vector<Arena::Entry>& more) {
  for (const Arena::Entry& entry : more) {
    const auto same = std::find_if(entries.begin(), entries.end(),
                                   [&](const Arena::Entry& e) { return e.name == entry.name; });
    if (same == entries.end()) {
      entries.push_back(entry);
    } else {
      same->bytes += entry.bytes;
    }
  }
}

}  // namespace rwkv
