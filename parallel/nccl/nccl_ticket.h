// Operations under way on a device.
#pragma once

#include <exception>
#include <memory>
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
  Patience patience{Patience::kEndless};
  std::unique_ptr<Event> over;  // recorded once `started`
  bool started = false;
};

// Whoever makes operations start, and knows about failures. Outlives their tickets.
class Keeper {
 public:
  virtual ~Keeper() = default;
  // Whether the operation has started, or with `over` is over; never blocks. Throws CommError when
  // it has failed, HangError when it outlasts the time limit.
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
      return failure_ != nullptr || keeper_.poll(*operation_, true);
    } catch (const CommError&) {
      failure_ = std::current_exception();
      return true;
    }
  }

  void wait() override {
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    if (ordered_) return;
    try {
      keeper_.await_start(*operation_);
      operation_->over->hold_back(operation_->caller);
      ordered_ = true;
    } catch (const CommError&) {
      failure_ = std::current_exception();
      throw;
    }
  }

 private:
  Keeper& keeper_;
  std::shared_ptr<Operation> operation_;
  bool ordered_ = false;
  std::exception_ptr failure_;
  Unwinding unwinding_;
};

}  // namespace rwkv::nccl
