#include "parallel/ticket.h"

#include <thread>

namespace rwkv {

namespace {
constexpr int kEagerPolls = 64;
constexpr std::chrono::milliseconds kYielding{2};
constexpr std::chrono::microseconds kNap{20};
}  // namespace

void PoliteWait::pause() {
  if (polls_ < kEagerPolls) {
    if (++polls_ == kEagerPolls) yielding_since_ = std::chrono::steady_clock::now();
    return;
  }
  if (std::chrono::steady_clock::now() - yielding_since_ < kYielding) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(kNap);
  }
}

}  // namespace rwkv
