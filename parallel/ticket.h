// Small parts of tickets that several communicators share.
#pragma once

#include <chrono>
#include <exception>
#include <limits>

#include "parallel/communicator.h"

namespace rwkv {

// The ticket of an operation that was over when its call returned.
class DoneTicket final : public Ticket {
 public:
  bool done() override { return true; }
  void wait() override {}
};

// Whether its owner is being destroyed because an exception left the owner's scope.
class Unwinding {
 public:
  explicit operator bool() const { return std::uncaught_exceptions() > at_birth_; }

 private:
  int at_birth_ = std::uncaught_exceptions();
};

// What is left of the time that a wait may take. Only time between polls of at most a second
// counts, so that a job that is stopped and goes on (SIGSTOP, a laptop's lid) has not waited
// meanwhile.
class Patience {
 public:
  static constexpr double kEndless = std::numeric_limits<double>::infinity();
  explicit Patience(double seconds) : left_(seconds) {}
  bool ends();  // to be asked at each poll

 private:
  using Clock = std::chrono::steady_clock;
  double left_;
  Clock::time_point last_ = Clock::now();
};

// A wait that polls: at first as fast as it can, then giving way to other threads, then asleep
// between polls, so that ranks that wait leave the cores to ranks that work.
class PoliteWait {
 public:
  void pause();

 private:
  int polls_ = 0;
  std::chrono::steady_clock::time_point yielding_since_{};
};

}  // namespace rwkv
