// From the values of a pickle to the tensors of a state dict: where each one lies in its storage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rwkv {

enum class StorageKind : uint8_t { kF32, kF64, kF16, kBF16, kOther };
int64_t bytes_of(StorageKind);  // of one element; 0 for kOther

struct StoredStorage {
  std::string key;   // digits: the entry data/<key> of the archive
  std::string type;  // "FloatStorage"
  StorageKind kind = StorageKind::kOther;
  int64_t elements = 0;
};

// A tensor as offset and strides (in elements) inside a storage. Every index lies inside; there are
// at most as many elements as the storage has.
struct StoredTensor {
  std::string name;
  size_t storage = 0;
  int64_t offset = 0, elements = 0;
  std::vector<int64_t> shape, strides;
};

struct StateDict {
  std::vector<StoredStorage> storages;
  std::vector<StoredTensor> tensors;
};

// Runs the pickle and reads a dict of tensors out of it. A leading
// "_forward_module." of names is dropped. Throws InputError beginning with `where`.
StateDict read_state_dict(std::span<const std::byte> bytes, const std::string& where);

}  // namespace rwkv
