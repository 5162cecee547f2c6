// Small parts of tickets that several communicators share.
#pragma once

#include <chrono>
#include <exception>

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
