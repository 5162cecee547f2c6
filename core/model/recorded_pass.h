// Work of a pass that is issued anew each time or, where the device can, recorded at its second run
// and from then on run by one call.
#pragma once

#include <memory>
#include <optional>

#include "core/model/param_store.h"

namespace rwkv {

struct ReleaseRecorded {
  const Recording* recording = nullptr;
  void operator()(void* recorded) const { recording->release(recorded); }
};

class RecordedPass {
 public:
  // All that the work depends on beside the contents of memory.
  struct Key {
    const ParamStore* store = nullptr;
    const std::byte *tokens = nullptr, *targets = nullptr, *weight = nullptr, *starts = nullptr;
    double loss_scale = 1, l2wrap = 0;
    bool operator==(const Key&) const = default;
  };

  // nullptr: nothing is recorded.
  explicit RecordedPass(const Recording* recording) : recording_(recording) {}

  // work(pass) issues on the pass's stream alone, and waits for nothing. The first time it runs as
  // it is: libraries choose and load what they need then.
  template <class Work>
  void run(const Pass& pass, const Key& key, const Work& work) {
    if (recording_ == nullptr) return work(pass);
    if (key_ != key) {
      recorded_.reset();
      key_ = key;
      return work(pass);
    }
    if (recorded_ == nullptr) record(pass, work);
    recording_->run(pass.stream, recorded_.get());
  }

 private:
  template <class Work>
  void record(const Pass& pass, const Work& work) {
    Pass recording = pass;
    recording.stream.native = recording_->begin();
    try {
      work(recording);
    } catch (...) {
      recording_->end(recording.stream.native, false);
      throw;
    }
    recorded_ = {recording_->end(recording.stream.native, true), {recording_}};
  }

  const Recording* recording_;
  std::optional<Key> key_;
  std::unique_ptr<void, ReleaseRecorded> recorded_;
};

}  // namespace rwkv
