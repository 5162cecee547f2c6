// The index of a tokenised corpus in Megatron's format, as RWKV's trainers use it.
//
// Little-endian, arrays unaligned:
//   0   9 bytes  "MMIDIDX\0\0"
//   9   u64      version, 1
//   17  u8       element type of .bin: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16 (6, 7: floats)
//   18  u64      n, the sequences
//   26  u64      m, the entries of the document index
//   34  i32 x n  length of each sequence, in tokens
//       i64 x n  where each begins in .bin, in bytes
//       i64 x m  the first sequence of each document, and n at the end
// The .bin is the tokens alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rwkv {

// The codes of the format.
enum class BinidxType : uint8_t { kU8 = 1, kI8 = 2, kI16 = 3, kI32 = 4, kI64 = 5, kU16 = 8 };

int64_t bytes_of(BinidxType);

struct BinidxIndex {
  BinidxType type = BinidxType::kU16;
  int64_t sequences = 0;
  int64_t tokens = 0;  // of the whole .bin
  // i64 x n: where each sequence begins in .bin, in bytes; in the index's own memory.
  std::span<const std::byte> pointers = {};

  // The first token of sequence `i`.
  int64_t first_token(int64_t i) const;
  // The first sequence that begins at `token` or behind it; `sequences` when none does.
  int64_t first_sequence_from(int64_t token) const;
};

// Checks every field of `idx` against the others and against `bin_bytes`, the length of the .bin:
// sequences must follow one another without a gap and fill it. Throws InputError naming `idx_path`,
// and does nothing else, for any content.
BinidxIndex parse_binidx_index(std::span<const std::byte> idx, int64_t bin_bytes,
                               const std::string& idx_path);

}  // namespace rwkv
