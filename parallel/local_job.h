// What the ranks of one run_local() share: the lock, who has failed or ended, and the operations
// that wait for somebody. Ranks here are numbers in the whole job, whatever communicator they speak
// on.
#pragma once

#include <array>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/ticket.h"

namespace rwkv::local {

// A rank cannot go on because another one failed: not the cause, and not what run_local() rethrows.
class PeerError final : public CommError {
 public:
  using CommError::CommError;
};

// An operation that starts once all its ranks have come. Guarded by the mutex of its job.
struct Pending {
  enum class State { kOpen, kRunning, kDone, kFailed };

  virtual ~Pending() = default;

  State state = State::kOpen;
  std::vector<int> awaited;  // ranks that have not come
  std::string failure;
  bool peers_fault = false;  // failed, and the cause is thrown elsewhere
};

class Job {
 public:
  explicit Job(int ranks) : ended_(static_cast<size_t>(ranks), false) {}

  // Held to read or change a Pending.
  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }

  // With the lock held. Throws PeerError after a rank has failed: from then on no operation starts,
  // so that the buffers of waiting ranks may go.
  void require_alive(const std::unique_lock<std::mutex>&) const;

  // With the lock held, which is given up for the time of `work`: a running operation owns the
  // buffers of all its ranks.
  template <class Work>
  void carry_out(std::unique_lock<std::mutex>& held, Pending& operation, const Work& work) {
    operation.state = Pending::State::kRunning;
    held.unlock();
    std::string failure;
    try {
      work();
    } catch (const std::exception& error) {
      failure = error.what();
    }
    held.lock();
    operation.failure = failure;
    operation.state = failure.empty() ? Pending::State::kDone : Pending::State::kFailed;
    changed_.notify_all();
  }

  bool settled(const Pending&);  // wait() would return or throw at once
  void wait(Pending&);           // throws CommError
  void withdraw(Pending&);       // returns when nobody uses this rank's buffers any more
  void end(int rank, bool failed);

 private:
  int first_absent(const Pending&) const;  // an awaited rank that has ended, or kNoRank
  bool settled_locked(const Pending&) const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> ended_;
  int failed_ = kNoRank;
};

// One or two operations of one rank, waited for together.
class LocalTicket final : public Ticket {
 public:
  using Parts = std::array<std::shared_ptr<Pending>, 2>;

  LocalTicket(std::shared_ptr<Job> job, Parts parts)
      : job_(std::move(job)), parts_(std::move(parts)) {}
  LocalTicket(const LocalTicket&) = delete;
  LocalTicket& operator=(const LocalTicket&) = delete;
  ~LocalTicket() override;

  bool done() override;
  void wait() override;

 private:
  std::shared_ptr<Job> job_;
  Parts parts_;
  Unwinding unwinding_;
};

}  // namespace rwkv::local
