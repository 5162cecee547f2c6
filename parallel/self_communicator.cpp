// The communicator of one rank. abort() ends the process from here, since there is no way back to
// main from a noexcept function that does not return.
#include <cstdio>
#include <cstdlib>

#include "parallel/communicator.h"
#include "parallel/ticket.h"

namespace rwkv {

namespace {

class SelfCommunicator final : public Communicator {
 public:
  explicit SelfCommunicator(const Memory& memory) : memory_(memory) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string name() const override { return "self"; }

  void barrier() override { record_operation(); }

  std::unique_ptr<Communicator> split(int color, int) override {
    record_operation();
    return color < 0 ? nullptr : make_self(memory_);
  }

  [[noreturn]] void abort(int code) noexcept override {
    std::fflush(nullptr);
    std::_Exit(code);
  }

 private:
  std::unique_ptr<Ticket> do_all_reduce(Tensor, Reduce, Stream&) override {
    return nothing_to_do();
  }
  std::unique_ptr<Ticket> do_broadcast(Tensor, int, Stream&) override { return nothing_to_do(); }

  // The caller has carried out a shift to itself, the only kind with one rank.
  std::unique_ptr<Ticket> do_shift(ConstTensor, int, Tensor, int, Stream&) override {
    return nothing_to_do();
  }

  std::unique_ptr<Ticket> do_all_gather(ConstTensor shard, Tensor whole, Stream& stream) override {
    if (shard.data != whole.data && shard.bytes() > 0) copy_local(stream, whole, shard);
    return nothing_to_do();
  }

  void copy_local(Stream& stream, const Tensor& to, const ConstTensor& from) override {
    copy(memory_, stream, to, from);
  }

  static std::unique_ptr<Ticket> nothing_to_do() { return std::make_unique<DoneTicket>(); }

  const Memory& memory_;
};

}  // namespace

std::unique_ptr<Communicator> make_self(const Memory& memory) {
  return std::make_unique<SelfCommunicator>(memory);
}

}  // namespace rwkv
