// Writes the two files of a tokenised corpus (core/data/binidx_index.h), right or bent.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace rwkv::test {

template <class T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

// The fields of an index, to be bent before they are written.
struct IndexFields {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  uint64_t version = 1;
  uint8_t type = 8;
  std::vector<int32_t> sizes;
  std::vector<int64_t> pointers;
  std::vector<int64_t> documents;
  uint64_t sequences = 0, entries = 0;

  // One document a sequence.
  IndexFields(uint8_t type_code, int64_t item, std::vector<int32_t> sequence_sizes)
      : type(type_code), sizes(std::move(sequence_sizes)) {
    int64_t at = 0;
    for (const int32_t size : sizes) {
      documents.push_back(static_cast<int64_t>(pointers.size()));
      pointers.push_back(at);
      at += size * item;
    }
    documents.push_back(static_cast<int64_t>(sizes.size()));
    sequences = sizes.size();
    entries = documents.size();
  }

  std::string bytes() const {
    std::string out = magic;
    append(out, version);
    append(out, type);
    append(out, sequences);
    append(out, entries);
    for (const int32_t size : sizes) append(out, size);
    for (const int64_t pointer : pointers) append(out, pointer);
    for (const int64_t document : documents) append(out, document);
    return out;
  }
};

template <class T>
std::string as_bin(const std::vector<int64_t>& tokens) {
  std::string out;
  for (const int64_t token : tokens) append(out, static_cast<T>(token));
  return out;
}

}  // namespace rwkv::test
