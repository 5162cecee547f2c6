// Tensors of a device over ranks of hosts. An operation copies what this rank gives to a host
// buffer, the control communicator carries it out there, and wait() copies what came to the device.
#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/ticket.h"

namespace rwkv {

namespace {

// Host buffers of a few sizes, lent and given back: a step that repeats an earlier one finds all it
// needs. For one thread.
class HostBuffers {
 public:
  std::byte* lend(int64_t bytes) {
    const int64_t size = rounded(bytes);
    for (Slot& slot : slots_) {
      if (!slot.lent && slot.buffer.bytes() == size) {
        slot.lent = true;
        return slot.buffer.data();
      }
    }
    slots_.push_back({Buffer(size), true});
    return slots_.back().buffer.data();
  }

  void take_back(const std::byte* data) {
    for (Slot& slot : slots_) {
      if (slot.buffer.data() == data) slot.lent = false;
    }
  }

 private:
  struct Slot {
    Buffer buffer;
    bool lent = false;
  };

  // Four sizes from one power of two to the next, so that tensors of about the same size share.
  static int64_t rounded(int64_t bytes) {
    const auto wanted = static_cast<uint64_t>(std::max<int64_t>(bytes, 4096));
    const uint64_t step = std::bit_floor(wanted) / 4;
    return static_cast<int64_t>((wanted + step - 1) / step * step);
  }

  std::vector<Slot> slots_;
};

// One lent buffer; nothing for no bytes.
class HostCopy {
 public:
  HostCopy() = default;
  HostCopy(std::shared_ptr<HostBuffers> buffers, int64_t bytes) : buffers_(std::move(buffers)) {
    if (bytes > 0) data_ = buffers_->lend(bytes);
  }
  HostCopy(HostCopy&& other) noexcept
      : buffers_(std::move(other.buffers_)), data_(std::exchange(other.data_, nullptr)) {}
  HostCopy& operator=(HostCopy&&) = delete;
  ~HostCopy() {
    if (data_ != nullptr) buffers_->take_back(data_);
  }
  std::byte* data() const { return data_; }

 private:
  std::shared_ptr<HostBuffers> buffers_;
  std::byte* data_ = nullptr;
};

// An operation on host buffers, and the tensor that it fills on the device (empty: none).
class StagedTicket final : public Ticket {
 public:
  StagedTicket(const Memory& device, const Stream& stream, HostCopy in, HostCopy out,
               Tensor arrives)
      : device_(device),
        stream_(stream),
        in_(std::move(in)),
        out_(std::move(out)),
        arrives_(arrives) {}
  StagedTicket(const StagedTicket&) = delete;
  StagedTicket& operator=(const StagedTicket&) = delete;
  ~StagedTicket() override {
    if (unwinding_ || work_ == nullptr) return;
    try {
      wait();
    } catch (const std::exception&) {  // dropped, as the interface says
    }
  }

  void start(std::unique_ptr<Ticket> work) { work_ = std::move(work); }

  bool done() override { return work_->done(); }

  void wait() override {
    work_->wait();
    if (std::exchange(copied_, true) || arrives_.empty() || arrives_.bytes() == 0) return;
    device_.copy(stream_, arrives_.data, in_.data(), arrives_.bytes());
  }

 private:
  const Memory& device_;
  Stream stream_;
  HostCopy in_, out_;  // what comes, and what is sent where that is apart
  Tensor arrives_;
  bool copied_ = false;
  std::unique_ptr<Ticket> work_;  // goes first: it uses the buffers
  Unwinding unwinding_;
};

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(Communicator& control, const Memory& device,
                     std::shared_ptr<HostBuffers> buffers)
      : control_(control), device_(device), buffers_(std::move(buffers)) {}
  StagedCommunicator(std::unique_ptr<Communicator> control, const Memory& device,
                     std::shared_ptr<HostBuffers> buffers)
      : owned_(std::move(control)),
        control_(*owned_),
        device_(device),
        buffers_(std::move(buffers)) {}

  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }
  std::string name() const override { return "staged"; }
  Communicator& host() override { return control_; }

  void barrier() override {
    record_operation();
    control_.barrier();
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    record_operation();
    auto part = control_.split(color, key);
    if (part == nullptr) return nullptr;
    return std::make_unique<StagedCommunicator>(std::move(part), device_, buffers_);
  }

  [[noreturn]] void abort(int code) noexcept override {
    control_.abort(code);
    __builtin_unreachable();
  }

 private:
  std::unique_ptr<Ticket> do_all_reduce(Tensor inout, Reduce how, Stream& stream) override {
    HostCopy copy = fetch(inout, stream);
    const Tensor here = at(copy, inout);
    auto ticket = begin(stream, std::move(copy), {}, inout);
    ticket->start(control_.all_reduce(here, how, stream));
    return ticket;
  }

  std::unique_ptr<Ticket> do_all_gather(ConstTensor shard, Tensor whole, Stream& stream) override {
    HostCopy copy(buffers_, whole.bytes());
    const Tensor all = at(copy, whole);
    ConstTensor mine{nullptr, shard.dtype, shard.shape};
    if (shard.bytes() > 0) {
      std::byte* place = all.data + rank() * shard.bytes();
      device_.copy(stream, place, shard.data, shard.bytes());
      mine.data = place;
    }
    auto ticket = begin(stream, std::move(copy), {}, whole);
    ticket->start(control_.all_gather(mine, all, stream));
    return ticket;
  }

  std::unique_ptr<Ticket> do_broadcast(Tensor inout, int root, Stream& stream) override {
    const bool sends = root == rank();
    HostCopy copy = sends ? fetch(inout, stream) : HostCopy(buffers_, inout.bytes());
    const Tensor here = at(copy, inout);
    auto ticket = begin(stream, std::move(copy), {}, sends ? Tensor{} : inout);
    ticket->start(control_.broadcast(here, root, stream));
    return ticket;
  }

  std::unique_ptr<Ticket> do_shift(ConstTensor out, int to, Tensor in, int from,
                                   Stream& stream) override {
    HostCopy sent = to == kNoRank ? HostCopy() : fetch(out, stream);
    HostCopy got = from == kNoRank ? HostCopy() : HostCopy(buffers_, in.bytes());
    const ConstTensor out_here{sent.data(), out.dtype, out.shape};
    const Tensor in_here = at(got, in);
    auto ticket = begin(stream, std::move(got), std::move(sent), from == kNoRank ? Tensor{} : in);
    ticket->start(control_.shift(out_here, to, in_here, from, stream));
    return ticket;
  }

  void copy_local(Stream& stream, const Tensor& to, const ConstTensor& from) override {
    device_.copy(stream, to.data, from.data, from.bytes());
  }

  HostPlace find_host_place() override { return host_place(control_); }

  std::unique_ptr<StagedTicket> begin(const Stream& stream, HostCopy in, HostCopy out,
                                      const Tensor& arrives) const {
    return std::make_unique<StagedTicket>(device_, stream, std::move(in), std::move(out), arrives);
  }

  // A host copy of the tensor, once the stream has made it.
  HostCopy fetch(const ConstTensor& t, const Stream& stream) const {
    HostCopy copy(buffers_, t.bytes());
    if (t.bytes() > 0) device_.copy(stream, copy.data(), t.data, t.bytes());
    return copy;
  }

  static Tensor at(const HostCopy& copy, const Tensor& like) {
    return {copy.data(), like.dtype, like.shape};
  }

  std::unique_ptr<Communicator> owned_;  // of a part of the ranks
  Communicator& control_;
  const Memory& device_;
  std::shared_ptr<HostBuffers> buffers_;
};

}  // namespace

std::unique_ptr<Communicator> make_staged(Communicator& control, const Memory& device) {
  return std::make_unique<StagedCommunicator>(control, device, std::make_shared<HostBuffers>());
}

}  // namespace rwkv
