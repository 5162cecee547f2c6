#include "parallel/ticket.h"

#include <algorithm>
#include <thread>

namespace rwkv {

namespace {
constexpr int kEagerPolls = 64;
constexpr std::chrono::milliseconds kYielding{2};
constexpr std::chrono::microseconds kNap{20};
constexpr double kLongestPoll = 1;  // seconds
}  // namespace

bool Patience::ends() {
  const Clock::time_point now = Clock::now();
  const std::chrono::duration<double> since = now - last_;
  last_ = now;
  left_ -= std::min(since.count(), kLongestPoll);
  return left_ < 0;
}

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
