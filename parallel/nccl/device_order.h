// Streams and events of the GPU. Each throws CommError naming the call where CUDA fails. Streams
// are Stream::native, nullptr the default one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkv::nccl {

void use_device(int device);

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(void* stream);
  bool over() const;                   // what the stream was given before record(); never blocks
  void hold_back(void* stream) const;  // the stream's later work comes after that; nor does it

 private:
  void* event_ = nullptr;
};

// Apart from the default stream, which would otherwise wait for this one and this one for it.
class OwnStream {
 public:
  OwnStream();
  ~OwnStream();
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  void* get() const { return stream_; }
  bool over() const;  // all that it was given; never blocks

 private:
  void* stream_ = nullptr;
};

// On the device, at least one byte.
void copy_on_device(void* stream, std::byte* to, const std::byte* from, int64_t bytes);

}  // namespace rwkv::nccl
