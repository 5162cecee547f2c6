#include "tests/support/recording_backend.h"

#include <functional>
#include <vector>

#include "kernels/each_op.h"

namespace rwkv::test {
namespace {

using Work = std::vector<std::function<void(const Stream&)>>;

Work* work_on(const Stream& stream) { return static_cast<Work*>(stream.native); }

void issue(const Stream& stream, std::function<void(const Stream&)> call) {
  if (work_on(stream) == nullptr) {
    ++recording_counts().direct;
    return call(stream);
  }
  if (recording_counts().refuses) {
    recording_counts().refuses = false;
    throw Error("cannot be recorded");
  }
  work_on(stream)->push_back(std::move(call));
}

template <auto Member, class Op>
void op(const Stream& stream, const Op& op) {
  issue(stream, [op](const Stream& on) { (cpu_backend().*Member)(on, op); });
}
template <auto Member, class Op>
void wrap(Backend& table, Kernel<Op> Backend::*) {
  table.*Member = op<Member, Op>;
}

const Memory& memory() {
  static const Memory table = [] {
    Memory m = host_memory();
    m.copy = [](const Stream& stream, std::byte* to, const std::byte* from, int64_t bytes) {
      issue(stream, [=](const Stream& on) { host_memory().copy(on, to, from, bytes); });
    };
    m.zero = [](const Stream& stream, std::byte* to, int64_t bytes) {
      issue(stream, [=](const Stream& on) { host_memory().zero(on, to, bytes); });
    };
    return m;
  }();
  return table;
}

constexpr Recording kRecording{
    []() -> void* { return new Work; },
    [](void* native, bool good) -> void* {
      if (!good) {
        delete static_cast<Work*>(native);
        return nullptr;
      }
      ++recording_counts().recorded;
      ++recording_counts().alive;
      return native;
    },
    [](const Stream& stream, void* recorded) {
      ++recording_counts().runs;
      for (const auto& call : *static_cast<Work*>(recorded)) call(stream);
    },
    [](void* recorded) {
      --recording_counts().alive;
      delete static_cast<Work*>(recorded);
    },
};

Backend recording_table() {
  Backend t = cpu_backend();
  t.name = "recording cpu";
  t.memory = &memory();
  t.recording = &kRecording;
  each_op([&]<auto Member>() { wrap<Member>(t, Member); });
  return t;
}

}  // namespace

RecordingCounts& recording_counts() {
  static thread_local RecordingCounts counts;
  return counts;
}

const Backend& recording_backend() {
  static const Backend table = recording_table();
  return table;
}

}  // namespace rwkv::test
