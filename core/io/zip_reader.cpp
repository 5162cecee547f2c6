#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <unordered_set>

#include "core/base/error.h"
#include "core/io/zip_stored.h"

namespace rwkv {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr uint64_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56;
constexpr uint64_t kLocatorSize = 20, kLongestComment = 0xffff;
constexpr uint16_t kSizesFollow = 1 << 3, kUtf8Names = 1 << 11;
constexpr uint32_t kIn64 = 0xffffffff;

// Every read of the archive goes through here and is checked.
class Archive {
 public:
  Archive(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}

  uint64_t size() const { return bytes_.size(); }
  [[noreturn]] void refuse(const std::string& what) const {
    throw InputError(where_ + ": " + what);
  }
  std::span<const std::byte> slice(uint64_t at, uint64_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at) {
      refuse("damaged zip archive: an entry leaves the file (is it truncated?)");
    }
    return bytes_.subspan(at, count);
  }
  template <class T>
  T load(uint64_t at) const {
    T value;
    std::memcpy(&value, slice(at, sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view text(uint64_t at, uint64_t count) const {
    const auto bytes = slice(at, count);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
};

// The zip64 extra field in an area of them; empty when there is none.
std::span<const std::byte> find_zip64(const Archive& zip, uint64_t at, uint64_t length) {
  const uint64_t end = at + length;
  while (end - at >= 4) {
    const uint64_t size = zip.load<uint16_t>(at + 2);
    if (size > end - at - 4) break;
    if (zip.load<uint16_t>(at) == 1) return zip.slice(at + 4, size);
    at += 4 + size;
  }
  return {};
}

// Takes the next number of a zip64 extra field if the 32-bit one says that it is there.
void widen(const Archive& zip, uint64_t& value, std::span<const std::byte>& zip64) {
  if (value != kIn64) return;
  if (zip64.size() < 8) zip.refuse("damaged zip archive: a zip64 size is missing");
  std::memcpy(&value, zip64.data(), 8);
  zip64 = zip64.subspan(8);
}

struct Directory {
  uint64_t entries = 0, offset = 0, size = 0;
};

uint64_t find_end(const Archive& zip) {
  if (zip.size() >= kEndSize) {
    const uint64_t last = zip.size() - kEndSize;
    const uint64_t first = last > kLongestComment ? last - kLongestComment : 0;
    for (uint64_t at = last + 1; at-- > first;) {
      if (zip.load<uint32_t>(at) == kEnd && zip.load<uint16_t>(at + 20) == last - at) return at;
    }
  }
  zip.refuse(
      "not a zip archive, or truncated (files of torch.save older than torch 1.6 are not read: "
      "save "
      "them again with a newer torch)");
}

Directory find_directory(const Archive& zip) {
  const uint64_t end = find_end(zip);
  Directory out{zip.load<uint16_t>(end + 10), zip.load<uint32_t>(end + 16),
                zip.load<uint32_t>(end + 12)};
  uint64_t directory_end = end;
  const uint64_t disks = zip.load<uint16_t>(end + 4) + zip.load<uint16_t>(end + 6);
  if (end >= kLocatorSize && zip.load<uint32_t>(end - kLocatorSize) == kEnd64Locator) {
    directory_end = zip.load<uint64_t>(end - kLocatorSize + 8);
    if (directory_end > end || end - directory_end < kEnd64Size + kLocatorSize ||
        zip.load<uint32_t>(directory_end) != kEnd64) {
      zip.refuse("damaged zip archive: its zip64 end record is not where it should be");
    }
    const Directory wide{zip.load<uint64_t>(directory_end + 32),
                         zip.load<uint64_t>(directory_end + 48),
                         zip.load<uint64_t>(directory_end + 40)};
    if ((out.entries != 0xffff && out.entries != wide.entries) ||
        (out.offset != kIn64 && out.offset != wide.offset) ||
        (out.size != kIn64 && out.size != wide.size)) {
      zip.refuse("damaged zip archive: its two end records differ");
    }
    out = wide;
  } else if (disks != 0) {
    zip.refuse("a zip archive in several parts is not read");
  }
  if (out.offset > directory_end || out.size != directory_end - out.offset ||
      out.entries > out.size / kCentralSize) {
    zip.refuse("damaged zip archive: its directory is not where it should be");
  }
  return out;
}

bool is_relative_name(std::string_view name) {
  if (name.empty() || name.front() == '/') return false;
  for (char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == '\\' || c == 0x7f) return false;
  }
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    if (name.substr(begin, end - begin) == "..") return false;
    begin = end + 1;
  }
  return true;
}

struct Located {
  ZipEntry entry;
  uint64_t begin = 0, end = 0;  // local header to end of data
};

// Finds the data by the local header, which must say what the central one, at `at`, says.
void locate(const Archive& zip, uint64_t at, uint64_t offset, uint64_t size, Located& out) {
  auto same = [&](bool ok, const char* what) {
    if (!ok) {
      zip.refuse("entry " + in_quotes(out.entry.name) + ": its two headers differ in " + what);
    }
  };
  same(zip.load<uint32_t>(offset) == kLocalHeader, "their place");
  const auto flags = zip.load<uint16_t>(offset + 6);
  same(flags == zip.load<uint16_t>(at + 8), "the flags");
  same(zip.load<uint16_t>(offset + 8) == zip.load<uint16_t>(at + 10), "the method");
  const uint64_t name_length = zip.load<uint16_t>(offset + 26);
  const uint64_t extra_length = zip.load<uint16_t>(offset + 28);
  same(zip.text(offset + kLocalSize, name_length) == out.entry.name, "the name");
  uint64_t stored = zip.load<uint32_t>(offset + 18), whole = zip.load<uint32_t>(offset + 22);
  auto zip64 = find_zip64(zip, offset + kLocalSize + name_length, extra_length);
  widen(zip, whole, zip64);
  widen(zip, stored, zip64);
  const auto crc = zip.load<uint32_t>(offset + 14);
  const bool later = (flags & kSizesFollow) != 0;
  same((stored == size && whole == size) || (later && stored == 0 && whole == 0), "the size");
  same(crc == out.entry.crc || (later && crc == 0), "the checksum");
  const uint64_t data = offset + kLocalSize + name_length + extra_length;
  out.entry.data = zip.slice(data, size);
  out.begin = offset;
  out.end = data + size;
}

// Reads the central header at `at` and moves it to the next one.
Located read_entry(const Archive& zip, uint64_t& at) {
  if (zip.load<uint32_t>(at) != kCentralHeader) {
    zip.refuse("damaged zip archive: its directory is broken");
  }
  const uint64_t name_length = zip.load<uint16_t>(at + 28);
  const uint64_t extra_length = zip.load<uint16_t>(at + 30);
  Located out;
  out.entry.name = zip.text(at + kCentralSize, name_length);
  out.entry.crc = zip.load<uint32_t>(at + 16);
  const std::string name = "entry " + in_quotes(out.entry.name);
  if (!is_relative_name(out.entry.name)) zip.refuse(name + ": not a plain relative name");
  // Before the flags, some of which describe a compression.
  if (zip.load<uint16_t>(at + 10) != 0) {
    zip.refuse(name + ": compressed; only stored ones are read");
  }
  const auto flags = zip.load<uint16_t>(at + 8);
  if ((flags & ~(kSizesFollow | kUtf8Names)) != 0) {
    zip.refuse(name + ": encrypted or of an unknown kind");
  }
  if (zip.load<uint16_t>(at + 34) != 0) zip.refuse(name + ": lies in another part of the archive");
  uint64_t stored = zip.load<uint32_t>(at + 20), whole = zip.load<uint32_t>(at + 24);
  uint64_t offset = zip.load<uint32_t>(at + 42);
  auto zip64 = find_zip64(zip, at + kCentralSize + name_length, extra_length);
  widen(zip, whole, zip64);
  widen(zip, stored, zip64);
  widen(zip, offset, zip64);
  if (stored != whole) zip.refuse(name + ": its two sizes differ");
  locate(zip, at, offset, whole, out);
  at += kCentralSize + name_length + extra_length + zip.load<uint16_t>(at + 32);
  return out;
}

constexpr auto kCrcTables = [] {
  // tables[k][b]: the checksum of byte b followed by k zero bytes.
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t c = b;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0xedb88320u : 0u);
    tables[0][b] = c;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (uint32_t b = 0; b < 256; ++b) {
      const uint32_t c = tables[k - 1][b];
      tables[k][b] = (c >> 8) ^ tables[0][c & 0xff];
    }
  }
  return tables;
}();

}  // namespace

uint32_t crc32(std::span<const std::byte> bytes, uint32_t before) {
  uint32_t crc = ~before;
  while (bytes.size() >= 8) {
    std::array<uint8_t, 8> b;
    std::memcpy(b.data(), bytes.data(), 8);
    for (uint32_t i = 0; i < 4; ++i) b[i] ^= static_cast<uint8_t>(crc >> (8 * i));
    crc = 0;
    for (size_t i = 0; i < 8; ++i) crc ^= kCrcTables[7 - i][b[i]];
    bytes = bytes.subspan(8);
  }
  for (std::byte b : bytes) {
    crc = (crc >> 8) ^ kCrcTables[0][(crc ^ static_cast<uint32_t>(b)) & 0xff];
  }
  return ~crc;
}

std::vector<ZipEntry> read_stored_zip(std::span<const std::byte> archive,
                                      const std::string& where) {
  const Archive zip(archive, where);
  const Directory directory = find_directory(zip);
  std::vector<Located> located;
  std::unordered_set<std::string_view> names;
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    located.push_back(read_entry(zip, at));
    const std::string_view name = located.back().entry.name;
    if (!names.insert(name).second) zip.refuse("entry " + in_quotes(name) + ": there twice");
  }
  if (at != directory.offset + directory.size) {
    zip.refuse("damaged zip archive: its directory has another length than it says");
  }
  std::vector<ZipEntry> out;
  out.reserve(located.size());
  for (const Located& l : located) out.push_back(l.entry);
  std::sort(located.begin(), located.end(),
            [](const Located& a, const Located& b) { return a.begin < b.begin; });
  for (size_t i = 0; i < located.size(); ++i) {
    const bool last = i + 1 == located.size();
    if (located[i].end > (last ? directory.offset : located[i + 1].begin)) {
      zip.refuse("entry " + in_quotes(located[i].entry.name) + ": overlaps with another part");
    }
  }
  return out;
}

void check_crc(const ZipEntry& entry, const std::string& where) {
  if (crc32(entry.data) != entry.crc) {
    throw InputError(where + ": entry " + in_quotes(entry.name) +
                     ": damaged (its checksum does not match)");
  }
}

std::string in_quotes(std::string_view text) {
  constexpr size_t kLongest = 80;
  std::string out = "'";
  for (char c : text.substr(0, kLongest)) out += c >= 0x20 && c < 0x7f ? c : '?';
  return out + (text.size() > kLongest ? "...'" : "'");
}

}  // namespace rwkv
