// Operations under way on a device.
#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "parallel/communicator.h"
#include "parallel/nccl/device_order.h"
#include "parallel/ticket.h"

namespace rwkv::nccl {

// One call to NCCL, known to its ticket and, until it has started on the device, to the
// communicator.
struct Operation {
  const char* call;
  void* caller;  // its stream
  std::chrono::steady_clock::time_point begun;
  std::unique_ptr<Event> over;  // recorded once `started`
  bool started = false;
};

// Whoever makes operations start, and knows about failures. Outlives their tickets.
class Keeper {
 public:
  virtual ~Keeper() = default;
  // Whether the operation has started, or with `over` is over; never blocks. Throws CommError when
  // it has failed or outlasts the time limit.
  virtual bool poll(Operation&, bool over) = 0;
  virtual void await_start(Operation&) = 0;
  virtual void give_back(std::unique_ptr<Event>) = 0;  // of an operation that is waited for
};

class NcclTicket final : public Ticket {
 public:
  NcclTicket(Keeper& keeper, std::shared_ptr<Operation> operation)
      : keeper_(keeper), operation_(std::move(operation)) {}
  NcclTicket(const NcclTicket&) = delete;
  NcclTicket& operator=(const NcclTicket&) = delete;
  ~NcclTicket() override {
    if (unwinding_) return;
    try {
      wait();
      keeper_.give_back(std::move(operation_->over));
    } catch (const std::exception&) {  // dropped, as the interface says
    }
  }

  bool done() override {
    try {
      return !failure_.empty() || keeper_.poll(*operation_, true);
    } catch (const CommError& error) {
      failure_ = error.what();
      return true;
    }
  }

  void wait() override {
    if (!failure_.empty()) throw CommError(failure_);
    if (ordered_) return;
    try {
      keeper_.await_start(*operation_);
      operation_->over->hold_back(operation_->caller);
      ordered_ = true;
    } catch (const CommError& error) {
      failure_ = error.what();
      throw;
    }
  }

 private:
  Keeper& keeper_;
  std::shared_ptr<Operation> operation_;
  bool ordered_ = false;
  std::string failure_;
  Unwinding unwinding_;
};

}  // namespace rwkv::nccl
