// How long the GPU takes for a call.
#pragma once

#include <cuda_runtime.h>

#include <device_check.h>

namespace rwkv::device {

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "event"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  void record(void* stream) {
    check(cudaEventRecord(event_, static_cast<cudaStream_t>(stream)), "event");
  }
  float milliseconds_since(const Event& start) const {
    check(cudaEventSynchronize(event_), "a call that is timed");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "event");
    return milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// The least of a few runs, in milliseconds.
template <class Call>
float least_time(void* stream, const Call& call) {
  constexpr int kRuns = 3;
  float least = 0;
  for (int i = 0; i < kRuns; ++i) {
    Event start, end;
    start.record(stream);
    call();
    end.record(stream);
    const float time = end.milliseconds_since(start);
    if (i == 0 || time < least) least = time;
  }
  return least;
}

}  // namespace rwkv::device
