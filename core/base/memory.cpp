#include "core/base/memory.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace rwkv {
namespace {

constexpr std::align_val_t kAlignment{kTensorAlignment};

std::byte* allocate(int64_t bytes) {
  void* p = ::operator new(static_cast<size_t>(bytes), kAlignment, std::nothrow);
  if (p != nullptr) std::memset(p, 0, static_cast<size_t>(bytes));
  return static_cast<std::byte*>(p);
}

void release(std::byte* p) { ::operator delete(p, kAlignment); }

void copy_bytes(const Stream&, std::byte* to, const std::byte* from, int64_t bytes) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

void zero_bytes(const Stream&, std::byte* to, int64_t bytes) {
  std::memset(to, 0, static_cast<size_t>(bytes));
}

}  // namespace

const Memory& host_memory() {
  static const Memory memory{.name = "host",
                             .host = true,
                             .allocate = allocate,
                             .release = release,
                             .copy = copy_bytes,
                             .zero = zero_bytes,
                             .wait = [](const Stream&) {},
                             .available = [] { return int64_t{-1}; }};
  return memory;
}

void copy(const Memory& memory, const Stream& stream, const Tensor& to, const ConstTensor& from) {
  if (to.data == from.data || to.bytes() == 0) return;
  require(to.dtype == from.dtype && to.elements() == from.elements(), "copies of the same size");
  memory.copy(stream, to.data, from.data, to.bytes());
}

void zero(const Memory& memory, const Stream& stream, const Tensor& t) {
  if (!t.empty() && t.bytes() > 0) memory.zero(stream, t.data, t.bytes());
}

Buffer::Buffer(int64_t bytes, const Memory& memory) : bytes_(bytes) {
  const int64_t rounded = std::max(kTensorAlignment, aligned_bytes(bytes));
  std::byte* p = memory.allocate(rounded);
  if (p == nullptr) {
    throw Error("out of " + std::string(memory.name) + " memory: " + std::to_string(rounded) +
                " bytes wanted");
  }
  data_ = {p, Release{&memory}};
}

ConstTensor on_host(const Memory& memory, const Stream& stream, const ConstTensor& t,
                    Buffer& room) {
  if (memory.host || t.empty()) return t;
  if (room.bytes() < t.bytes()) room = Buffer(t.bytes());
  memory.copy(stream, room.data(), t.data, t.bytes());
  return {room.data(), t.dtype, t.shape};
}

}  // namespace rwkv
