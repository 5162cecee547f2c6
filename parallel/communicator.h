// Ranks that talk. Calls are collective unless said otherwise: every rank of the communicator must
// make them, in the same order, with the same sizes and types. Stream-ordered: a call returns a
// ticket once the operation is under way; the buffers must live and stay untouched until wait().
// Tensors live in the memory of the communicator: the host's, or a device's (make_staged, NCCL).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/memory.h"
#include "core/base/stream.h"
#include "core/base/tensor.h"

namespace rwkv {

enum class Reduce : uint8_t { kSum, kMax, kMin };

inline constexpr int kNoRank = -1;

struct HostPlace;

// An operation under way. On a CPU progress is made by polling done(). After wait() the result is
// there for whatever the operation's stream is given next: on a host it is there, on a device the
// stream waits for it and the host need not. It reads by Memory::copy on that stream, and frees
// the tensors after settle(). A ticket does not outlive its communicator. Destroying a ticket waits
// for its operation and drops its error, except while an exception is on its way: then the
// operation is given up, and the communicator is good for abort() alone.
class Ticket {
 public:
  virtual ~Ticket() = default;
  virtual bool done() = 0;  // never blocks; true also when the operation failed
  virtual void wait() = 0;  // throws CommError when the operation failed, HangError in time
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string name() const = 0;  // self | local | mpi | staged | nccl

  // The same ranks for tensors of the host, at any time: itself unless its tensors are a device's.
  virtual Communicator& host() { return *this; }

  // inout: f64, f32, i64 or i32, any shape; the same bits on all ranks afterwards. kMax and kMin of
  // floats that hold a NaN are unspecified.
  std::unique_ptr<Ticket> all_reduce(Tensor inout, Reduce, Stream&);
  // whole: size() times the elements of shard; shard r lies at element r * shard.elements().
  // `shard` is either the calling rank's part of `whole` or does not overlap it.
  std::unique_ptr<Ticket> all_gather(ConstTensor shard, Tensor whole, Stream&);
  std::unique_ptr<Ticket> broadcast(Tensor, int root, Stream&);
  // One matched send and receive: `out` goes to rank `to`, `in` is filled from rank `from`. kNoRank
  // skips a side. Every rank may name other partners; sizes must match pairwise. Calls meet pair by
  // pair, in the order of the calls between those two ranks. `out` and `in` do not overlap.
  std::unique_ptr<Ticket> shift(ConstTensor out, int to, Tensor in, int from, Stream&);

  virtual void barrier() = 0;

  // Not collective. Blocks until the operations that this rank began are over on the device too;
  // throws CommError where one failed or outlasts the time limit. To be called before the host
  // waits for a stream, which would wait for a lost peer for ever. A host's operations are over
  // with wait().
  virtual void settle() {}

  // Ranks that give the same colour form a new communicator, ordered by key, then by rank. A
  // negative colour gives nullptr.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  // Not collective. How many seconds a wait for other ranks may take, on this communicator and on
  // those that are split from it afterwards; then it throws HangError, and the communicator is good
  // for abort() alone. Without limit until it is set. MPI's ranks keep to it; threads have no
  // limit, and NCCL has its own (NcclSettings).
  virtual void limit_waits(double /*seconds*/) {}

  // Not collective. Ends every rank of the job with `code`; frees peers stuck in a collective.
  [[noreturn]] virtual void abort(int code) noexcept = 0;

  // Blocking conveniences over the above, on host().
  double sum(double);
  int64_t min(int64_t);
  int64_t max(int64_t);
  std::string broadcast(std::string text, int root);         // lengths may differ: root's counts
  std::vector<std::string> gather(const std::string& text);  // every rank's, on all ranks

  // Operations begun on this communicator by this rank, barriers and splits included.
  uint64_t operations() const { return operations_; }
  // Bytes that this rank has sent in them, as rings do it: an all-reduce passes 2 (n - 1) / n of
  // the tensor on, a gather n - 1 shards, a broadcast the tensor on all ranks but one; a shift
  // sends to others what it is given.
  int64_t sent_bytes() const { return sent_bytes_; }

 protected:
  // Every operation passes here once its arguments are found good, before it starts.
  void record_operation(int64_t sent_bytes = 0) {
    ++operations_;
    sent_bytes_ += sent_bytes;
  }
  // to = from, both of this rank and of the same bytes, at least one; in order of the stream.
  virtual void copy_local(Stream&, const Tensor& to, const ConstTensor& from);

 private:
  virtual std::unique_ptr<Ticket> do_all_reduce(Tensor, Reduce, Stream&) = 0;
  virtual std::unique_ptr<Ticket> do_all_gather(ConstTensor, Tensor, Stream&) = 0;
  virtual std::unique_ptr<Ticket> do_broadcast(Tensor, int root, Stream&) = 0;
  virtual std::unique_ptr<Ticket> do_shift(ConstTensor, int to, Tensor, int from, Stream&) = 0;
  virtual HostPlace find_host_place();  // here: all ranks are on this host, in order
  friend HostPlace host_place(Communicator&);

  uint64_t operations_ = 0;
  int64_t sent_bytes_ = 0;
};

// One rank, no library; for tensors of the given memory, which must outlive it.
std::unique_ptr<Communicator> make_self(const Memory& = host_memory());

// The ranks of `control`, which works on the host, for tensors of `device`: by copies to host
// buffers, `control`, and copies back when a ticket is waited for. For ranks that share a device,
// and to check NCCL against. `control` and `device` must outlive it; it keeps the buffers to use
// them again.
std::unique_ptr<Communicator> make_staged(Communicator& control, const Memory& device);

// A rank of as many ranks, to plan memory for: any operation is an internal error.
std::unique_ptr<Communicator> make_planned(int ranks, int rank = 0);

// Ranks as threads of this process, `work(comm)` on each; rethrows the first rank's exception after
// all have ended (a rank that throws frees its peers, whose calls then throw CommError).
void run_local(int ranks, const std::function<void(Communicator&)>& work);

// MPI_COMM_WORLD. Initialises MPI (thread level multiple) and finalises it when the returned object
// goes. At most one in a process, made and destroyed on the main thread. Throws CommError where a
// launcher says N ranks and MPI says 1.
std::unique_ptr<Communicator> make_mpi();

// Whether this process was started by mpirun, srun or another PMI launcher.
bool under_launcher();

// Rank and number of ranks on this host.
struct HostPlace {
  int rank = 0, size = 1;
};
HostPlace host_place(Communicator& world);  // collective

}  // namespace rwkv
