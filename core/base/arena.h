// Planned memory: the same calls run once on a null arena, to measure, and once on a real one, to
// bind. Nothing grows after that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/memory.h"
#include "core/base/tensor.h"

namespace rwkv {

class Arena {
 public:
  // Measures: views have shapes and no data.
  Arena() = default;
  // Binds views into `base`, which must hold `capacity` bytes and outlive them.
  Arena(std::byte* base, int64_t capacity) : base_(base), capacity_(capacity) {}

  bool measuring() const { return base_ == nullptr; }
  Tensor take(std::string_view name, DType, const Shape&);

  // Scratch is shared by rewinding: what was taken after mark() may be handed out again.
  int64_t mark() const { return used_; }
  void rewind(int64_t mark);
  int64_t peak() const { return peak_; }

  // What was held at the peak: one entry a name, in order of first use, bytes added up.
  struct Entry {
    std::string name;
    int64_t bytes = 0;
  };
  std::vector<Entry> entries() const;

 private:
  struct Piece {
    std::string name;
    int64_t begin, bytes;
  };

  std::byte* base_ = nullptr;
  int64_t capacity_ = 0, used_ = 0, peak_ = 0;
  // Kept while measuring only. The pieces at the peak are copied when a rewind drops some of them.
  std::vector<Piece> live_, at_peak_;
  bool peak_is_live_ = false;
};

// Adds `more` to `entries`, name by name.
void add_entries(std::vector<Arena::Entry>& entries, const std::vector<Arena::Entry>& more);

}  // namespace rwkv
