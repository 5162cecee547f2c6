#include "tests/parallel/nccl/fake_cuda.h"

#include <cuda_runtime.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace rwkv::fake {
namespace {

class Signal {
 public:
  void set() {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return set_; });
  }
  bool is_set() {
    const std::lock_guard lock(mutex_);
    return set_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

class FakeStream {
 public:
  FakeStream() : worker_([this] { run(); }) {}
  FakeStream(const FakeStream&) = delete;
  FakeStream& operator=(const FakeStream&) = delete;
  ~FakeStream() {
    push(nullptr);
    worker_.join();
  }
  void push(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
    changed_.notify_all();
  }
  bool idle() {
    const std::lock_guard lock(mutex_);
    return queue_.empty();
  }

 private:
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !queue_.empty(); });
      const auto work = queue_.front();
      lock.unlock();
      if (work == nullptr) return;
      std::this_thread::sleep_for(std::chrono::microseconds(20));  // so that order matters
      work();
      lock.lock();
      queue_.pop_front();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::thread worker_;
};

// The device of a rank: what its thread has made.
std::vector<FakeStream*>& streams_of_this_rank() {
  static thread_local std::vector<FakeStream*> streams;
  return streams;
}

struct FakeEvent {
  std::shared_ptr<Signal> signal;  // of the latest record
};

FakeStream& stream_of(void* native) {
  static thread_local FakeStream own;
  return native == nullptr ? own : *static_cast<FakeStream*>(native);
}

FakeEvent& event_of(cudaEvent_t event) {
  return *static_cast<FakeEvent*>(static_cast<void*>(event));
}

void wait_for(void* stream) {
  Signal through;
  launch(stream, [&] { through.set(); });
  through.wait();
}

// As cudaFree does, memory is given back once the device is idle.
void release(std::byte* p) {
  wait_for(nullptr);
  for (FakeStream* stream : streams_of_this_rank()) wait_for(stream);
  host_memory().release(p);
}

void copy_bytes(const Stream& stream, std::byte* to, const std::byte* from, int64_t bytes) {
  launch(stream.native, [=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
  wait_for(stream.native);
}

void zero_bytes(const Stream& stream, std::byte* to, int64_t bytes) {
  launch(stream.native, [=] { std::memset(to, 0, static_cast<size_t>(bytes)); });
}

}  // namespace

void launch(void* stream, std::function<void()> kernel) {
  stream_of(stream).push(std::move(kernel));
}

const Memory& device_memory() {
  static const Memory memory{
      .name = "fake",
      .host = false,
      .allocate = [](int64_t bytes) { return host_memory().allocate(bytes); },
      .release = release,
      .copy = copy_bytes,
      .zero = zero_bytes,
      .wait = [](const Stream& stream) { wait_for(stream.native); },
      .available = [] { return int64_t{-1}; },
  };
  return memory;
}

}  // namespace rwkv::fake

using rwkv::fake::event_of;
using rwkv::fake::FakeEvent;
using rwkv::fake::FakeStream;
using rwkv::fake::stream_of;

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

const char* cudaGetErrorString(cudaError_t) { return "fake error"; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = static_cast<cudaEvent_t>(static_cast<void*>(new FakeEvent));
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &event_of(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  auto signal = std::make_shared<rwkv::fake::Signal>();
  event_of(event).signal = signal;
  stream_of(stream).push([signal] { signal->set(); });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const auto& signal = event_of(event).signal;
  return signal == nullptr || signal->is_set() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (auto signal = event_of(event).signal) stream_of(stream).push([signal] { signal->wait(); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  auto* const made = new FakeStream;
  rwkv::fake::streams_of_this_rank().push_back(made);
  *stream = static_cast<cudaStream_t>(static_cast<void*>(made));
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::erase(rwkv::fake::streams_of_this_rank(), &stream_of(stream));
  delete &stream_of(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return stream_of(stream).idle() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  stream_of(stream).push([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
