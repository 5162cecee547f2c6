#include "core/data/binidx_index.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <string_view>

#include "core/base/error.h"

namespace rwkv {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

using namespace std::string_view_literals;
constexpr std::string_view kMagic = "MMIDIDX\0\0"sv;
constexpr uint64_t kHeaderBytes = 34;
constexpr size_t kVersionAt = 9, kTypeAt = 17, kSequencesAt = 18, kDocumentsAt = 26;

template <class T>
T load(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

template <class... Args>
[[noreturn]] void refuse(const std::string& path, fmt::format_string<Args...> why, Args&&... args) {
  throw InputError(path + ": " + fmt::format(why, std::forward<Args>(args)...));
}

BinidxType checked_type(uint8_t code, const std::string& path) {
  switch (const auto type = static_cast<BinidxType>(code)) {
    case BinidxType::kU8:
    case BinidxType::kI8:
    case BinidxType::kI16:
    case BinidxType::kI32:
    case BinidxType::kI64:
    case BinidxType::kU16:
      return type;
  }
  refuse(path, "element type {} is not an integer type: expected 1, 2, 3, 4, 5 or 8", code);
}

// Sequences follow one another from byte 0 to the end of the .bin.
void check_sequences(std::span<const std::byte> sizes, std::span<const std::byte> pointers,
                     int64_t item, int64_t bin_bytes, const std::string& path) {
  const size_t count = sizes.size() / sizeof(int32_t);
  int64_t begin = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto size = load<int32_t>(sizes, i * sizeof(int32_t));
    const auto pointer = load<int64_t>(pointers, i * sizeof(int64_t));
    if (size < 0) refuse(path, "sequence {} has a negative length, {}", i, size);
    if (pointer != begin) {
      refuse(path, "sequence {} begins at byte {} of the .bin, expected {}", i, pointer, begin);
    }
    if (size > (bin_bytes - begin) / item) {
      refuse(path, "sequence {} of {} tokens at byte {} goes beyond the .bin of {} bytes", i, size,
             begin, bin_bytes);
    }
    begin += size * item;
  }
  if (begin != bin_bytes) {
    refuse(path, "its sequences hold {} tokens, but the .bin holds {}", begin / item,
           bin_bytes / item);
  }
}

// From 0 to the number of sequences, never back.
void check_documents(std::span<const std::byte> documents, int64_t sequences,
                     const std::string& path) {
  const size_t count = documents.size() / sizeof(int64_t);
  if (count == 0) refuse(path, "the document index is empty: expected 0 ... {}", sequences);
  int64_t before = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto first = load<int64_t>(documents, i * sizeof(int64_t));
    const bool fits = i == 0 ? first == 0 : first >= before && first <= sequences;
    if (!fits) {
      refuse(path, "entry {} of the document index is {}: expected 0 ... {}, rising", i, first,
             sequences);
    }
    before = first;
  }
  if (before != sequences) {
    refuse(path, "the document index ends at {}, expected {}", before, sequences);
  }
}

}  // namespace

int64_t bytes_of(BinidxType type) {
  switch (type) {
    case BinidxType::kU8:
    case BinidxType::kI8:
      return 1;
    case BinidxType::kI16:
    case BinidxType::kU16:
      return 2;
    case BinidxType::kI32:
      return 4;
    case BinidxType::kI64:
      return 8;
  }
  return 0;
}

int64_t BinidxIndex::first_token(int64_t i) const {
  return load<int64_t>(pointers, static_cast<size_t>(i) * sizeof(int64_t)) / bytes_of(type);
}

int64_t BinidxIndex::first_sequence_from(int64_t token) const {
  int64_t low = 0, high = sequences;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (first_token(middle) < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

BinidxIndex parse_binidx_index(std::span<const std::byte> idx, int64_t bin_bytes,
                               const std::string& idx_path) {
  if (idx.size() < kHeaderBytes) {
    refuse(idx_path, "{} bytes are too few for a binidx header of {}", idx.size(), kHeaderBytes);
  }
  if (std::memcmp(idx.data(), kMagic.data(), kMagic.size()) != 0) {
    refuse(idx_path, "not a binidx index: it does not start with MMIDIDX");
  }
  if (const auto version = load<uint64_t>(idx, kVersionAt); version != 1) {
    refuse(idx_path, "binidx version {} is not known, expected 1", version);
  }
  BinidxIndex index;
  index.type = checked_type(load<uint8_t>(idx, kTypeAt), idx_path);

  // Counts are bounded by the file's length before they are multiplied.
  const auto sequences = load<uint64_t>(idx, kSequencesAt);
  const auto documents = load<uint64_t>(idx, kDocumentsAt);
  constexpr uint64_t kPerSequence = sizeof(int32_t) + sizeof(int64_t);
  const uint64_t room = idx.size() - kHeaderBytes;
  if (sequences > room / kPerSequence || documents > room / sizeof(int64_t) ||
      sequences * kPerSequence + documents * sizeof(int64_t) != room) {
    refuse(idx_path, "{} sequences and {} document entries do not fit its length of {} bytes",
           sequences, documents, idx.size());
  }

  const int64_t item = bytes_of(index.type);
  if (bin_bytes % item != 0) {
    refuse(idx_path, "the .bin of {} bytes is not a whole number of tokens of {} bytes", bin_bytes,
           item);
  }
  const auto sizes = idx.subspan(kHeaderBytes, sequences * sizeof(int32_t));
  const auto pointers = idx.subspan(kHeaderBytes + sizes.size(), sequences * sizeof(int64_t));
  index.sequences = static_cast<int64_t>(sequences);
  index.tokens = bin_bytes / item;
  check_sequences(sizes, pointers, item, bin_bytes, idx_path);
  index.pointers = pointers;
  check_documents(idx.last(documents * sizeof(int64_t)), index.sequences, idx_path);
  return index;
}

}  // namespace rwkv
