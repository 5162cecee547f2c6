#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/posix_file.h"
#include "core/io/pth_state.h"
#include "core/io/tensor_file.h"
#include "core/io/zip_stored.h"

namespace rwkv {
namespace {

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

float element(StorageKind kind, const std::byte* from) {
  switch (kind) {
    case StorageKind::kF64:
      return static_cast<float>(load<double>(from));
    case StorageKind::kF16:
      return static_cast<float>(load<fp16>(from));
    case StorageKind::kBF16:
      return static_cast<float>(load<bf16>(from));
    case StorageKind::kF32:
      return load<float>(from);
    case StorageKind::kOther:
      break;
  }
  throw Error("internal: an element of a storage that is not floating point");
}

bool is_contiguous(const StoredTensor& tensor) {
  int64_t wanted = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != wanted) return false;
    wanted *= tensor.shape[i];
  }
  return true;
}

// The tensor's elements in row-major order, from the bytes of its storage.
std::vector<float> values_of(const StoredTensor& tensor, StorageKind kind,
                             std::span<const std::byte> storage) {
  std::vector<float> out(static_cast<size_t>(tensor.elements));
  if (out.empty()) return out;
  const std::byte* base = storage.data() + tensor.offset * bytes_of(kind);
  if (is_contiguous(tensor)) {
    if (kind == StorageKind::kF32) {
      std::memcpy(out.data(), base, out.size() * sizeof(float));
      return out;
    }
    for (float& value : out) {
      value = element(kind, base);
      base += bytes_of(kind);
    }
    return out;
  }
  std::vector<int64_t> index(tensor.shape.size());
  int64_t at = 0;
  for (float& value : out) {
    value = element(kind, base + at * bytes_of(kind));
    for (size_t i = index.size(); i-- > 0;) {
      at += tensor.strides[i];
      if (++index[i] < tensor.shape[i]) break;
      at -= tensor.strides[i] * tensor.shape[i];
      index[i] = 0;
    }
  }
  return out;
}

DType stored_type(StorageKind kind) {
  if (kind == StorageKind::kBF16) return DType::kBF16;
  return kind == StorageKind::kF64 ? DType::kF64 : DType::kF32;
}

// The archive as torch lays it out: <stem>/data.pkl, <stem>/data/<key>, <stem>/byteorder.
class TorchArchive {
 public:
  TorchArchive(std::span<const std::byte> file, const std::string& where) : where_(where) {
    constexpr std::string_view kPickle = "/data.pkl";
    for (const ZipEntry& entry : read_stored_zip(file, where)) {
      entries_.emplace(entry.name, entry);
      if (!entry.name.ends_with(kPickle)) continue;
      const std::string_view stem = entry.name.substr(0, entry.name.size() - kPickle.size());
      if (stem.find('/') != std::string_view::npos) continue;
      if (!stem_.empty()) throw InputError(where + ": more than one data.pkl");
      stem_ = stem;
    }
    if (stem_.empty()) throw InputError(where + ": a zip archive, but not one of torch.save");
  }

  // Null when it is not there.
  const ZipEntry* find(const std::string& name) const {
    const auto found = entries_.find(std::string(stem_) + "/" + name);
    return found == entries_.end() ? nullptr : &found->second;
  }
  std::span<const std::byte> read(const std::string& name) const {
    const ZipEntry* entry = find(name);
    if (entry == nullptr) throw InputError(where_ + ": entry " + in_quotes(name) + " is missing");
    check_crc(*entry, where_);
    return entry->data;
  }

 private:
  const std::string& where_;
  std::string_view stem_;
  std::unordered_map<std::string_view, ZipEntry> entries_;
};

// The bytes of each storage, as many as the pickle says.
std::vector<std::span<const std::byte>> read_storages(const TorchArchive& archive,
                                                      const StateDict& state,
                                                      const std::string& where) {
  std::vector<std::span<const std::byte>> out;
  for (const StoredStorage& storage : state.storages) {
    const std::string name = "data/" + storage.key;
    const ZipEntry* entry = archive.find(name);
    const auto width = static_cast<uint64_t>(bytes_of(storage.kind));
    if (entry != nullptr &&
        (entry->data.size() % width != 0 ||
         entry->data.size() / width != static_cast<uint64_t>(storage.elements))) {
      throw InputError(where + ": entry " + in_quotes(name) + " has " +
                       std::to_string(entry->data.size()) + " bytes, but the pickle says " +
                       std::to_string(storage.elements) + " elements of " + std::to_string(width));
    }
    out.push_back(archive.read(name));
  }
  return out;
}

}  // namespace

TensorMap parse_pth(std::span<const std::byte> file, const std::string& name) {
  const TorchArchive archive(file, name);
  if (archive.find("byteorder") != nullptr) {
    const auto order = archive.read("byteorder");
    if (std::string_view(reinterpret_cast<const char*>(order.data()), order.size()) != "little") {
      throw InputError(name + ": its byte order is not little");
    }
  }
  const StateDict state = read_state_dict(archive.read("data.pkl"), name);
  const auto storages = read_storages(archive, state, name);
  TensorMap out;
  for (const StoredTensor& tensor : state.tensors) {
    const StorageKind kind = state.storages[tensor.storage].kind;
    NamedTensor& to = out[tensor.name];
    to.name = tensor.name;
    to.shape = tensor.shape;
    to.stored = stored_type(kind);
    to.values = values_of(tensor, kind, storages[tensor.storage]);
  }
  return out;
}

TensorMap read_pth(const std::string& path) {
  const MappedFile file(path);
  return parse_pth(file.bytes(), path);
}

}  // namespace rwkv
