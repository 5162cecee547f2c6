// Zip archives whose entries are stored, not compressed: what torch.save writes. Zip64 both ways.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/posix_file.h"

namespace rwkv {

uint32_t crc32(std::span<const std::byte> bytes, uint32_t before = 0);

// Views into the archive it was read from.
struct ZipEntry {
  std::string_view name;
  std::span<const std::byte> data;
  uint32_t crc = 0;
};

// The entries in the order of the central directory. Throws InputError beginning with `where`
// unless every entry is stored and not encrypted, the two headers of each agree, entries neither
// overlap nor leave the archive, and names are unique relative paths without "..". Checksums are
// left to check_crc(), for the entries that are used.
std::vector<ZipEntry> read_stored_zip(std::span<const std::byte> archive, const std::string& where);
void check_crc(const ZipEntry&, const std::string& where);

// Writes `path` atomically: it appears with finish(). Data begin at multiples of 64 bytes.
class StoredZipWriter {
 public:
  // Sizes and offsets from `zip64_from` on are written as zip64; lower than the default in tests.
  explicit StoredZipWriter(const std::string& path, uint64_t zip64_from = 0xffffffff);
  void add(std::string_view name, std::span<const std::byte> data);
  void finish();

 private:
  struct Written {
    std::string name;
    uint64_t offset = 0, size = 0;
    uint32_t crc = 0;
  };
  void put(std::string_view bytes);
  std::string central_header(const Written&) const;

  AtomicFile file_;
  uint64_t zip64_from_, position_ = 0;
  std::vector<Written> entries_;
};

// Untrusted text for a message: one line, printable, at most 80 characters, in single quotes.
std::string in_quotes(std::string_view text);

}  // namespace rwkv
