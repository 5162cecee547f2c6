#include <algorithm>
#include <string>

#include "core/base/error.h"
#include "core/io/zip_stored.h"

namespace rwkv {
namespace {

constexpr uint64_t kAlign = 64;
constexpr uint16_t kVersionNeeded = 45;     // the first with zip64
constexpr uint16_t kPaddingField = 0x4246;  // the id that torch uses for the same purpose
constexpr uint16_t kFirstDate = 0x21;       // 1980-01-01: the same weights give the same file

void append(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>((value >> (8 * i)) & 0xff);
}

}  // namespace

StoredZipWriter::StoredZipWriter(const std::string& path, uint64_t zip64_from)
    : file_(path), zip64_from_(zip64_from) {}

void StoredZipWriter::put(std::string_view bytes) {
  file_.append(std::as_bytes(std::span(bytes)));
  position_ += bytes.size();
}

void StoredZipWriter::add(std::string_view name, std::span<const std::byte> data) {
  require(name.size() <= 0xffff, "a name in a zip archive has at most 65535 bytes");
  const Written entry{std::string(name), position_, data.size(), crc32(data)};
  std::string extra;
  const bool wide = entry.size >= zip64_from_;
  if (wide) {
    append(extra, 1, 2);
    append(extra, 16, 2);
    append(extra, entry.size, 8);
    append(extra, entry.size, 8);
  }
  uint64_t padding = (kAlign - (position_ + 30 + name.size() + extra.size()) % kAlign) % kAlign;
  if (padding > 0) {
    if (padding < 4) padding += kAlign;
    append(extra, kPaddingField, 2);
    append(extra, padding - 4, 2);
    extra.append(padding - 4, '\0');
  }
  std::string header = "PK\x03\x04";
  append(header, kVersionNeeded, 2);
  append(header, 0, 2);  // flags
  append(header, 0, 2);  // stored
  append(header, 0, 2);  // time
  append(header, kFirstDate, 2);
  append(header, entry.crc, 4);
  append(header, wide ? 0xffffffff : entry.size, 4);
  append(header, wide ? 0xffffffff : entry.size, 4);
  append(header, name.size(), 2);
  append(header, extra.size(), 2);
  put(header + entry.name + extra);
  file_.append(data);
  position_ += data.size();
  entries_.push_back(entry);
}

std::string StoredZipWriter::central_header(const Written& entry) const {
  const bool wide_size = entry.size >= zip64_from_, wide_offset = entry.offset >= zip64_from_;
  std::string extra;
  if (wide_size || wide_offset) {
    append(extra, 1, 2);
    append(extra, (wide_size ? 16 : 0) + (wide_offset ? 8 : 0), 2);
    if (wide_size) append(extra, entry.size, 8);
    if (wide_size) append(extra, entry.size, 8);
    if (wide_offset) append(extra, entry.offset, 8);
  }
  std::string out = "PK\x01\x02";
  append(out, kVersionNeeded, 2);
  append(out, kVersionNeeded, 2);
  append(out, 0, 2);
  append(out, 0, 2);
  append(out, 0, 2);
  append(out, kFirstDate, 2);
  append(out, entry.crc, 4);
  append(out, wide_size ? 0xffffffff : entry.size, 4);
  append(out, wide_size ? 0xffffffff : entry.size, 4);
  append(out, entry.name.size(), 2);
  append(out, extra.size(), 2);
  append(out, 0, 2);  // comment
  append(out, 0, 2);  // part
  append(out, 0, 2);  // attributes
  append(out, 0, 4);
  append(out, wide_offset ? 0xffffffff : entry.offset, 4);
  return out + entry.name + extra;
}

void StoredZipWriter::finish() {
  const uint64_t begin = position_, count = entries_.size();
  for (const Written& entry : entries_) put(central_header(entry));
  const uint64_t end = position_, size = end - begin;
  std::string tail;
  const bool wide = begin >= zip64_from_ || size >= zip64_from_ ||
                    count >= std::min<uint64_t>(zip64_from_, 0xffff);
  if (wide) {
    tail += "PK\x06\x06";
    append(tail, 44, 8);  // what follows in this record
    append(tail, kVersionNeeded, 2);
    append(tail, kVersionNeeded, 2);
    append(tail, 0, 4);
    append(tail, 0, 4);
    append(tail, count, 8);
    append(tail, count, 8);
    append(tail, size, 8);
    append(tail, begin, 8);
    tail += "PK\x06\x07";
    append(tail, 0, 4);
    append(tail, end, 8);
    append(tail, 1, 4);
  }
  tail += "PK\x05\x06";
  append(tail, 0, 4);
  append(tail, wide ? 0xffff : count, 2);
  append(tail, wide ? 0xffff : count, 2);
  append(tail, wide ? 0xffffffff : size, 4);
  append(tail, wide ? 0xffffffff : begin, 4);
  append(tail, 0, 2);
  put(tail);
  file_.commit();
}

}  // namespace rwkv
