// The conformance checks, which hold their tensors on the host, on a communicator of a device: an
// operation copies its tensors there, and wait() copies them back.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "core/base/memory.h"
#include "parallel/communicator.h"
#include "parallel/ticket.h"

namespace rwkv::conformance {

class ThroughDevice final : public Communicator {
 public:
  // `device` is the memory of the communicator's tensors, and outlives it.
  ThroughDevice(std::unique_ptr<Communicator> inner, const Memory& device)
      : owned_(std::move(inner)), inner_(owned_.get()), device_(device) {}
  ThroughDevice(Communicator& inner, const Memory& device) : inner_(&inner), device_(device) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::string name() const override { return inner_->name(); }
  void settle() override { inner_->settle(); }
  [[noreturn]] void abort(int code) noexcept override {
    inner_->abort(code);
    __builtin_unreachable();
  }

  void barrier() override {
    record_operation();
    inner_->barrier();
  }
  std::unique_ptr<Communicator> split(int color, int key) override {
    record_operation();
    auto part = inner_->split(color, key);
    if (part == nullptr) return nullptr;
    return std::make_unique<ThroughDevice>(std::move(part), device_);
  }

 private:
  // A tensor's counterpart on the device.
  struct Copy {
    Copy(const Memory& memory, const Stream& stream, const ConstTensor& t)
        : buffer(t.bytes(), memory), view{buffer.data(), t.dtype, t.shape} {
      if (t.bytes() > 0) memory.copy(stream, view.data, t.data, t.bytes());
    }
    Buffer buffer;
    Tensor view;
  };

  struct Returned final : Ticket {
    Returned(Communicator& c, const Memory& m, const Stream& s, Copy a, Copy b, const Tensor& to)
        : comm(c), memory(m), stream(s), first(std::move(a)), second(std::move(b)), filled(to) {}
    Returned(const Returned&) = delete;
    Returned& operator=(const Returned&) = delete;
    ~Returned() override {
      if (unwinding || work == nullptr) return;
      try {
        wait();
      } catch (const std::exception&) {  // dropped, as the interface says
      }
    }
    bool done() override { return work->done(); }
    void wait() override {
      work->wait();
      if (std::exchange(copied, true)) return;
      comm.settle();  // a lost peer is an error, and not a copy or a release that never ends
      if (filled.empty() || filled.bytes() == 0) return;
      memory.copy(stream, filled.data, first.view.data, filled.bytes());
    }

    Communicator& comm;
    const Memory& memory;
    Stream stream;
    Copy first, second;  // what is filled, what is sent
    Tensor filled;       // on the host
    bool copied = false;
    std::unique_ptr<Ticket> work;
    Unwinding unwinding;
  };

  std::unique_ptr<Returned> begin(const Stream& stream, const ConstTensor& sent,
                                  const Tensor& filled) {
    return std::make_unique<Returned>(*inner_, device_, stream, Copy(device_, stream, filled),
                                      Copy(device_, stream, sent), filled);
  }

  std::unique_ptr<Ticket> do_all_reduce(Tensor inout, Reduce how, Stream& stream) override {
    auto ticket = begin(stream, none(), inout);
    ticket->work = inner_->all_reduce(ticket->first.view, how, stream);
    return ticket;
  }

  std::unique_ptr<Ticket> do_all_gather(ConstTensor shard, Tensor whole, Stream& stream) override {
    const bool in_place = shard.data == whole.data + rank() * shard.bytes();
    auto ticket = begin(stream, shard, whole);
    ConstTensor mine = ticket->second.view;
    if (in_place) mine.data = ticket->first.view.data + rank() * shard.bytes();
    ticket->work = inner_->all_gather(mine, ticket->first.view, stream);
    return ticket;
  }

  std::unique_ptr<Ticket> do_broadcast(Tensor inout, int root, Stream& stream) override {
    auto ticket = begin(stream, none(), inout);
    ticket->work = inner_->broadcast(ticket->first.view, root, stream);
    return ticket;
  }

  std::unique_ptr<Ticket> do_shift(ConstTensor out, int to, Tensor in, int from,
                                   Stream& stream) override {
    auto ticket =
        begin(stream, to == kNoRank ? ConstTensor(none()) : out, from == kNoRank ? none() : in);
    ticket->work = inner_->shift(ticket->second.view, to, ticket->first.view, from, stream);
    return ticket;
  }

  void copy_local(Stream& stream, const Tensor& to, const ConstTensor& from) override {
    auto ticket = begin(stream, from, to);
    ticket->work = inner_->shift(ticket->second.view, rank(), ticket->first.view, rank(), stream);
    ticket->wait();
  }

  HostPlace find_host_place() override { return host_place(*inner_); }

  static Tensor none() { return {nullptr, DType::kU8, {0}}; }

  std::unique_ptr<Communicator> owned_;
  Communicator* inner_;
  const Memory& device_;
};

}  // namespace rwkv::conformance
