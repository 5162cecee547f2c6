#include "core/io/pth_state.h"

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/base/error.h"
#include "core/io/pth_pickle.h"
#include "core/io/zip_stored.h"

namespace rwkv {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMostTensors = 100'000, kMostDimensions = 8, kLongestName = 1024;
constexpr size_t kLongestKey = 18;
// Tied weights are read twice; a file must not claim its bytes more often than that suggests.
constexpr int64_t kMostReuse = 4;
constexpr std::string_view kWrapper = "_forward_module.";

StorageKind kind_of(std::string_view type) {
  if (type == "FloatStorage") return StorageKind::kF32;
  if (type == "DoubleStorage") return StorageKind::kF64;
  if (type == "HalfStorage") return StorageKind::kF16;
  if (type == "BFloat16Storage") return StorageKind::kBF16;
  return StorageKind::kOther;
}

bool is_tensor_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c > 0x20 && c < 0x7f && c != '/' && c != '\\'; });
}

class Interpreter {
 public:
  Interpreter(const Pickle& pickle, const std::string& where) : pickle_(pickle), where_(where) {}

  StateDict read() {
    const PickleValue& root = pickle_[pickle_.root];
    if (root.kind != Kind::kDict) {
      throw InputError(where_ + ": holds " + std::string(name_of(root.kind)) +
                       "; a state dict (a dict of tensors) is wanted");
    }
    if (root.items.size() / 2 > kMostTensors) {
      throw InputError(where_ + ": holds more than 100000 tensors");
    }
    for (size_t i = 0; i < root.items.size(); i += 2) {
      add(pickle_[root.items[i]], pickle_[root.items[i + 1]]);
    }
    check_reuse();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw InputError(where_ + ": " + (name_.empty() ? "" : "tensor " + in_quotes(name_) + ": ") +
                     what);
  }
  void expect(bool ok, const char* what) const {
    if (!ok) [[unlikely]]
      refuse(what);
  }
  const PickleValue& item(const PickleValue& of, size_t i, Kind kind, const char* what) const {
    const PickleValue& value = pickle_[of.items[i]];
    expect(value.kind == kind, what);
    return value;
  }

  void add(const PickleValue& key, const PickleValue& value);
  const PickleValue& arguments_of(const PickleValue& call, std::string_view callable) const;
  size_t storage_of(const PickleValue& persistent);
  std::vector<int64_t> numbers(const PickleValue& tuple) const;
  void check_bounds(StoredTensor& tensor) const;
  void check_reuse() const;

  const Pickle& pickle_;
  const std::string& where_;
  std::string name_;  // of the tensor at hand, for messages
  std::set<std::string> names_;
  std::unordered_map<std::string_view, size_t> by_key_;
  StateDict out_;
};

const PickleValue& Interpreter::arguments_of(const PickleValue& call,
                                             std::string_view callable) const {
  expect(pickle_[call.items[0]].text == callable, "not made by torch's _rebuild_tensor_v2");
  return pickle_[call.items[1]];
}

size_t Interpreter::storage_of(const PickleValue& persistent) {
  const PickleValue& id = item(persistent, 0, Kind::kTuple, "a persistent id that is no tuple");
  expect(
      id.items.size() == 5 && item(id, 0, Kind::kText, "a broken persistent id").text == "storage",
      "a persistent id that is no storage");
  std::string_view type = item(id, 1, Kind::kGlobal, "a storage without a type").text;
  expect(type.starts_with("torch ") && type.ends_with("Storage"), "a storage without a type");
  type.remove_prefix(6);
  const std::string_view key = item(id, 2, Kind::kText, "a storage whose key is no text").text;
  expect(!key.empty() && key.size() <= kLongestKey &&
             std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; }),
         "a storage whose key is no number");
  item(id, 3, Kind::kText, "a storage whose location is no text");
  const int64_t elements = item(id, 4, Kind::kInt, "a storage whose size is no int").number;
  expect(elements >= 0, "a storage of negative size");
  const auto [known, is_new] = by_key_.try_emplace(key, out_.storages.size());
  if (is_new) {
    out_.storages.push_back({std::string(key), std::string(type), kind_of(type), elements});
  } else {
    const StoredStorage& before = out_.storages[known->second];
    expect(before.type == type && before.elements == elements,
           "a storage that was described otherwise before");
  }
  return known->second;
}

std::vector<int64_t> Interpreter::numbers(const PickleValue& tuple) const {
  expect(tuple.items.size() <= kMostDimensions, "more than 8 dimensions");
  std::vector<int64_t> out;
  for (size_t i = 0; i < tuple.items.size(); ++i) {
    out.push_back(item(tuple, i, Kind::kInt, "a size or stride that is no int").number);
    expect(out.back() >= 0, "a negative size or stride");
  }
  return out;
}

void Interpreter::check_bounds(StoredTensor& tensor) const {
  const int64_t available = out_.storages[tensor.storage].elements;
  expect(tensor.shape.size() == tensor.strides.size(), "as many strides as sizes are wanted");
  expect(tensor.offset >= 0 && tensor.offset <= available, "it begins outside its storage");
  const bool empty = std::count(tensor.shape.begin(), tensor.shape.end(), 0) > 0;
  tensor.elements = empty ? 0 : 1;
  if (empty) return;
  int64_t last = tensor.offset;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t step = 0;
    expect(!__builtin_mul_overflow(tensor.elements, tensor.shape[i], &tensor.elements) &&
               tensor.elements <= available,
           "more elements than its storage has");
    expect(!__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &step) &&
               !__builtin_add_overflow(last, step, &last) && last < available,
           "it ends outside its storage");
  }
  expect(last < available, "it ends outside its storage");
}

void Interpreter::add(const PickleValue& key, const PickleValue& value) {
  name_.clear();
  if (key.kind != Kind::kText) {
    refuse("holds a key that is " + std::string(name_of(key.kind)) + "; names are wanted");
  }
  std::string_view name = key.text;
  if (name.starts_with(kWrapper)) name.remove_prefix(kWrapper.size());
  if (!is_tensor_name(name)) {
    refuse("the key " + in_quotes(key.text) + " is no name of a tensor (printable, no slash)");
  }
  if (value.kind != Kind::kCall) {
    refuse("the key " + in_quotes(name) + " holds " + std::string(name_of(value.kind)) +
           "; only tensors are read");
  }
  name_ = name;
  expect(names_.insert(name_).second, "there twice");

  const PickleValue* call = &value;
  if (pickle_[call->items[0]].text == "torch._utils _rebuild_parameter") {
    const PickleValue& arguments = pickle_[call->items[1]];
    expect(arguments.items.size() == 3, "a parameter made from another number of values than 3");
    item(arguments, 1, Kind::kBool, "a parameter with broken values");
    item(arguments, 2, Kind::kDict, "a parameter with broken values");
    call = &item(arguments, 0, Kind::kCall, "a parameter that holds no tensor");
  }
  const PickleValue& arguments = arguments_of(*call, "torch._utils _rebuild_tensor_v2");
  expect(arguments.items.size() == 6, "a tensor made from another number of values than 6");
  item(arguments, 4, Kind::kBool, "a tensor with broken values");
  item(arguments, 5, Kind::kDict, "a tensor with broken values");
  StoredTensor tensor;
  tensor.name = name_;
  tensor.storage = storage_of(item(arguments, 0, Kind::kPersistent, "no storage"));
  const StoredStorage& storage = out_.storages[tensor.storage];
  if (storage.kind == StorageKind::kOther) {
    refuse("lies in a " + storage.type + "; only floating-point tensors are read");
  }
  tensor.offset = item(arguments, 1, Kind::kInt, "an offset that is no int").number;
  tensor.shape = numbers(item(arguments, 2, Kind::kTuple, "a shape that is no tuple"));
  tensor.strides = numbers(item(arguments, 3, Kind::kTuple, "strides that are no tuple"));
  check_bounds(tensor);
  out_.tensors.push_back(std::move(tensor));
}

void Interpreter::check_reuse() const {
  // Declared sizes; those of the file are compared with them before anything is allocated.
  auto sum = [&](const auto& list) {
    int64_t total = 0;
    for (const auto& entry : list) {
      if (__builtin_add_overflow(total, entry.elements, &total)) {
        throw InputError(where_ + ": its sizes add up to more than 64 bits");
      }
    }
    return total;
  };
  const int64_t held = sum(out_.storages), wanted = sum(out_.tensors);
  if (wanted / kMostReuse > held) {
    throw InputError(where_ + ": its tensors share storages too often (" + std::to_string(wanted) +
                     " elements of " + std::to_string(held) + " stored)");
  }
}

}  // namespace

int64_t bytes_of(StorageKind kind) {
  switch (kind) {
    case StorageKind::kF64:
      return 8;
    case StorageKind::kF32:
      return 4;
    case StorageKind::kF16:
    case StorageKind::kBF16:
      return 2;
    case StorageKind::kOther:
      break;
  }
  return 0;
}

StateDict read_state_dict(std::span<const std::byte> bytes, const std::string& where) {
  return Interpreter(run_pickle(bytes, where), where).read();
}

}  // namespace rwkv
