// Where tensors live: the host's memory, or a device's, which the host cannot touch. A table of
// functions, as a backend's ops are, so that the program itself needs no device's library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "core/base/stream.h"
#include "core/base/tensor.h"

namespace rwkv {

// Bytes that tensors begin at multiples of: a cache line, and the widest vector register.
inline constexpr int64_t kTensorAlignment = 64;
inline constexpr int64_t aligned_bytes(int64_t bytes) {
  return (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
}

struct Memory {
  std::string_view name;  // host | cuda
  bool host = false;      // the host may read and write it

  // At least 64-byte aligned, zeroed. nullptr: there is not that much.
  std::byte* (*allocate)(int64_t bytes) = nullptr;
  void (*release)(std::byte*) = nullptr;
  // Bytes from this memory or the host's to this one or the host's, after what the stream was given
  // before. The host's side may be used again when the call returns. Pieces do not overlap.
  void (*copy)(const Stream&, std::byte* to, const std::byte* from, int64_t bytes) = nullptr;
  void (*zero)(const Stream&, std::byte* to, int64_t bytes) = nullptr;
  // Until all that the stream was given is done.
  void (*wait)(const Stream&) = nullptr;
  // Bytes that are free now; -1: not known.
  int64_t (*available)() = nullptr;
};

const Memory& host_memory();

// to = from, element for element; both hold the same type. Empty tensors are left alone.
void copy(const Memory&, const Stream&, const Tensor& to, const ConstTensor& from);
void zero(const Memory&, const Stream&, const Tensor&);

struct Release {
  const Memory* memory = nullptr;
  void operator()(std::byte* p) const { memory->release(p); }
};

// 64-byte aligned memory, zeroed. Throws Error naming the bytes when there is not enough.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes, const Memory& = host_memory());
  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<std::byte, Release> data_;
  int64_t bytes_ = 0;
};

// A tensor that the host can read: itself where its memory is the host's, else a copy of it in
// `room`, which is made large enough. Waits for the stream.
ConstTensor on_host(const Memory&, const Stream&, const ConstTensor&, Buffer& room);

}  // namespace rwkv
