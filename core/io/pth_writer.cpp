#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/tensor_file.h"
#include "core/io/zip_stored.h"

namespace rwkv {
namespace {

// Writes the pickle of an OrderedDict of tensors, storage k belonging to tensor k.
class StatePickle {
 public:
  explicit StatePickle(DType dtype)
      : storage_type_(dtype == DType::kBF16 ? "torch\nBFloat16Storage\n"
                                            : "torch\nFloatStorage\n") {
    out_ = "\x80\x02";
    ordered_dict();
    out_ += '(';
  }

  void add(const NamedTensor& tensor, size_t storage) {
    text(tensor.name);
    global("torch._utils\n_rebuild_tensor_v2\n");
    out_ += "((";
    text("storage");
    global(storage_type_);
    text(std::to_string(storage));
    text("cpu");
    integer(static_cast<int64_t>(tensor.values.size()));
    out_ += "tQ";
    integer(0);  // offset
    tuple(tensor.shape);
    tuple(strides_of(tensor.shape));
    out_ += '\x89';  // requires_grad
    ordered_dict();  // hooks
    out_ += "tR";
  }

  std::string finish() { return out_ + "u."; }

 private:
  // Spelled out once; later mentions come from the memo.
  void global(std::string_view module_and_name) {
    const auto [known, is_new] =
        memo_.try_emplace(module_and_name, static_cast<char>(memo_.size()));
    if (is_new) out_.append("c").append(module_and_name);
    out_.append(1, is_new ? 'q' : 'h').append(1, known->second);
  }
  void ordered_dict() {
    global("collections\nOrderedDict\n");
    out_ += ")R";
  }
  void little_endian(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out_ += static_cast<char>((value >> (8 * i)) & 0xff);
  }
  void text(std::string_view value) {
    out_ += 'X';
    little_endian(value.size(), 4);
    out_ += value;
  }
  void integer(int64_t value) {
    if (value <= std::numeric_limits<int32_t>::max()) {
      out_ += 'J';
      little_endian(static_cast<uint64_t>(value), 4);
    } else {
      out_ += "\x8a\x08";
      little_endian(static_cast<uint64_t>(value), 8);
    }
  }
  void tuple(const std::vector<int64_t>& values) {
    out_ += '(';
    for (int64_t value : values) integer(value);
    out_ += 't';
  }
  static std::vector<int64_t> strides_of(const std::vector<int64_t>& shape) {
    std::vector<int64_t> strides(shape.size());
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= shape[i];
    }
    return strides;
  }

  std::string_view storage_type_;
  std::map<std::string_view, char> memo_;
  std::string out_;
};

void check(const NamedTensor& tensor, std::set<std::string_view>& names) {
  require(names.insert(tensor.name).second, "write_pth: a name is there twice");
  int64_t elements = 1;
  for (int64_t size : tensor.shape) elements *= size;
  require(elements == static_cast<int64_t>(tensor.values.size()),
          "write_pth: a tensor's shape and values have different sizes");
}

void add_text(StoredZipWriter& zip, const char* name, std::string_view text) {
  zip.add(name, std::as_bytes(std::span(text)));
}

}  // namespace

void write_pth(const std::string& path, const std::vector<NamedTensor>& tensors, DType dtype) {
  require(dtype == DType::kF32 || dtype == DType::kBF16, "write_pth: f32 or bf16");
  std::set<std::string_view> names;
  StatePickle pickle(dtype);
  for (size_t i = 0; i < tensors.size(); ++i) {
    check(tensors[i], names);
    pickle.add(tensors[i], i);
  }
  StoredZipWriter zip(path);
  add_text(zip, "archive/data.pkl", pickle.finish());
  add_text(zip, "archive/byteorder", "little");
  std::vector<bf16> narrow;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<float>& values = tensors[i].values;
    const std::string name = "archive/data/" + std::to_string(i);
    if (dtype == DType::kF32) {
      zip.add(name, std::as_bytes(std::span(values)));
    } else {
      narrow.assign(values.size(), bf16());
      for (size_t k = 0; k < values.size(); ++k) narrow[k] = bf16(values[k]);
      zip.add(name, std::as_bytes(std::span(narrow)));
    }
  }
  add_text(zip, "archive/version", "3\n");
  zip.finish();
}

}  // namespace rwkv
