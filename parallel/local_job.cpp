#include "parallel/local_job.h"

#include <fmt/format.h>

namespace rwkv::local {

using State = Pending::State;

void Job::require_alive(const std::unique_lock<std::mutex>&) const {
  if (failed_ != kNoRank) throw PeerError(fmt::format("rank {} of the local job failed", failed_));
}

int Job::first_absent(const Pending& operation) const {
  for (int rank : operation.awaited) {
    if (ended_[static_cast<size_t>(rank)]) return rank;
  }
  return kNoRank;
}

bool Job::settled_locked(const Pending& operation) const {
  switch (operation.state) {
    case State::kDone:
    case State::kFailed:
      return true;
    case State::kRunning:
      return false;
    case State::kOpen:
      break;
  }
  return failed_ != kNoRank || first_absent(operation) != kNoRank;
}

bool Job::settled(const Pending& operation) {
  const auto held = lock();
  return settled_locked(operation);
}

void Job::wait(Pending& operation) {
  auto held = lock();
  changed_.wait(held, [&] { return settled_locked(operation); });
  if (operation.state == State::kDone) return;
  if (operation.state == State::kOpen) {
    require_alive(held);
    operation.failure = fmt::format("rank {} of the local job ended without joining an operation",
                                    first_absent(operation));
    operation.state = State::kFailed;
    changed_.notify_all();
  }
  if (operation.peers_fault) throw PeerError(operation.failure);
  throw CommError(operation.failure);
}

void Job::withdraw(Pending& operation) {
  auto held = lock();
  if (operation.state == State::kOpen) {
    operation.failure = "a rank of the local job gave up an operation under way";
    operation.peers_fault = true;
    operation.state = State::kFailed;
    changed_.notify_all();
  }
  changed_.wait(held, [&] { return operation.state != State::kRunning; });
}

void Job::end(int rank, bool failed) {
  const auto held = lock();
  ended_[static_cast<size_t>(rank)] = true;
  if (failed && failed_ == kNoRank) failed_ = rank;
  changed_.notify_all();
}

LocalTicket::~LocalTicket() {
  for (const auto& part : parts_) {
    if (part == nullptr) continue;
    if (unwinding_) {
      job_->withdraw(*part);
      continue;
    }
    try {
      job_->wait(*part);
    } catch (const CommError&) {
      // The owner chose not to ask; the buffers are free either way.
    }
  }
}

bool LocalTicket::done() {
  for (const auto& part : parts_) {
    if (part != nullptr && !job_->settled(*part)) return false;
  }
  return true;
}

void LocalTicket::wait() {
  for (const auto& part : parts_) {
    if (part != nullptr) job_->wait(*part);
  }
}

}  // namespace rwkv::local
