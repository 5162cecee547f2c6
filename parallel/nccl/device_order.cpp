#include "parallel/nccl/device_order.h"

#include <fmt/format.h>
#include <nccl.h>  // brings CUDA's run time with it

#include "core/base/error.h"

namespace rwkv::nccl {
namespace {

// The one place where return codes of CUDA's run time are looked at here.
void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) [[likely]]
    return;
  throw CommError(fmt::format("{}: {}", call, cudaGetErrorString(code)));
}

bool is_over(cudaError_t code, const char* call) {
  if (code == cudaErrorNotReady) return false;
  check(code, call);
  return true;
}

cudaStream_t stream_of(void* native) { return static_cast<cudaStream_t>(native); }
cudaEvent_t event_of(void* event) { return static_cast<cudaEvent_t>(event); }

}  // namespace

void use_device(int device) { check(cudaSetDevice(device), "cudaSetDevice"); }

Event::Event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  event_ = event;
}

Event::~Event() { cudaEventDestroy(event_of(event_)); }

void Event::record(void* stream) {
  check(cudaEventRecord(event_of(event_), stream_of(stream)), "cudaEventRecord");
}

bool Event::over() const { return is_over(cudaEventQuery(event_of(event_)), "cudaEventQuery"); }

void Event::hold_back(void* stream) const {
  check(cudaStreamWaitEvent(stream_of(stream), event_of(event_), 0), "cudaStreamWaitEvent");
}

OwnStream::OwnStream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  stream_ = stream;
}

OwnStream::~OwnStream() { cudaStreamDestroy(stream_of(stream_)); }

bool OwnStream::over() const {
  return is_over(cudaStreamQuery(stream_of(stream_)), "cudaStreamQuery");
}

void copy_on_device(void* stream, std::byte* to, const std::byte* from, int64_t bytes) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                        stream_of(stream)),
        "cudaMemcpyAsync");
}

}  // namespace rwkv::nccl
