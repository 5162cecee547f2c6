// Writes pickles by hand, well-formed or evil.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rwkv {

class PickleMaker {
 public:
  explicit PickleMaker(std::string start = "\x80\x02") : out_(std::move(start)) {}

  PickleMaker& raw(std::string_view bytes) {
    out_ += bytes;
    return *this;
  }
  PickleMaker& number(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out_ += static_cast<char>((value >> (8 * i)) & 0xff);
    return *this;
  }
  PickleMaker& text(std::string_view value) { return raw("X").number(value.size(), 4).raw(value); }
  PickleMaker& integer(int64_t value) {
    return raw("\x8a\x08").number(static_cast<uint64_t>(value), 8);
  }
  PickleMaker& global(const std::string& module, const std::string& name) {
    return raw("c" + module + "\n" + name + "\n");
  }
  PickleMaker& tuple(const std::vector<int64_t>& values) {
    raw("(");
    for (int64_t v : values) integer(v);
    return raw("t");
  }
  PickleMaker& ordered_dict() { return global("collections", "OrderedDict").raw(")R"); }
  PickleMaker& storage(const std::string& type, std::string_view key, int64_t elements) {
    raw("(").text("storage").global("torch", type).text(key).text("cpu").integer(elements);
    return raw("tQ");
  }
  struct Place {
    std::string type = "FloatStorage", key = "0";
    int64_t elements = 4, offset = 0;
    std::vector<int64_t> shape = {4}, strides = {1};
  };
  PickleMaker& tensor(const Place& p) {
    global("torch._utils", "_rebuild_tensor_v2").raw("(").storage(p.type, p.key, p.elements);
    integer(p.offset).tuple(p.shape).tuple(p.strides).raw("\x89").ordered_dict();
    return raw("tR");
  }
  const std::string& str() const { return out_; }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(out_)); }

 private:
  std::string out_;
};

// A whole state dict of one tensor named "x".
inline PickleMaker one_tensor(const PickleMaker::Place& place, std::string_view name = "x") {
  return PickleMaker().ordered_dict().text(name).tensor(place).raw("s.");
}

}  // namespace rwkv
