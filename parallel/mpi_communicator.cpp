// Ranks that are processes. Operations are nonblocking and progress when their tickets are polled;
// one thread issues them. abort() alone may be called from any thread.
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>
#include <utility>
#include <vector>

#include "parallel/launch_environment.h"
#include "parallel/mpi_internal.h"
#include "parallel/ticket.h"

namespace rwkv {

namespace {

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  throw CommError(fmt::format("{}: {}", call,
                              length > 0 ? std::string(text, static_cast<size_t>(length))
                                         : fmt::format("MPI error {}", code)));
}

MPI_Datatype mpi_type(DType type) {
  switch (type) {
    case DType::kF64:
      return MPI_DOUBLE;
    case DType::kF32:
      return MPI_FLOAT;
    case DType::kI64:
      return MPI_INT64_T;
    case DType::kI32:
      return MPI_INT32_T;
    default:
      throw Error("internal: a type that MPI cannot add");
  }
}

MPI_Op mpi_op(Reduce how) {
  switch (how) {
    case Reduce::kSum:
      return MPI_SUM;
    case Reduce::kMax:
      return MPI_MAX;
    case Reduce::kMin:
      return MPI_MIN;
  }
  throw Error("internal: unknown reduction");
}

// MPI from its start to its end.
class Session {
 public:
  Session() {
    int provided = MPI_THREAD_SINGLE;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    has_threads_ = provided == MPI_THREAD_MULTIPLE;
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  // Peers may be stuck when an exception is on its way; MPI_Finalize would wait for them for ever.
  // Whoever catches it ends the job by abort() or by its exit code.
  ~Session() {
    if (open_ && !unwinding_ && MPI_Finalize() != MPI_SUCCESS) {
      std::fputs("rwkv-dist: MPI_Finalize failed\n", stderr);
    }
  }
  void close() {
    open_ = false;
    check(MPI_Finalize(), "MPI_Finalize");
  }
  bool has_threads() const { return has_threads_; }

 private:
  bool open_ = true, has_threads_ = false;
  Unwinding unwinding_;
};

// Owns a communicator handle; freeing is collective, so it is left out when ranks part in disorder.
class Handle {
 public:
  explicit Handle(MPI_Comm comm) : comm_(comm) {
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    int finalised = 0;
    const bool usable = MPI_Finalized(&finalised) == MPI_SUCCESS && finalised == 0;
    if (usable && !unwinding_) MPI_Comm_free(&comm_);  // a failure shows in MPI_Finalize
  }
  MPI_Comm get() const { return comm_; }

 private:
  MPI_Comm comm_;
  Unwinding unwinding_;
};

// For all_gather in pieces: `bytes` bytes that lie `stride` bytes from the next rank's.
class StridedType {
 public:
  StridedType(int bytes, int64_t stride) {
    MPI_Datatype piece = MPI_DATATYPE_NULL;
    check(MPI_Type_contiguous(bytes, MPI_BYTE, &piece), "MPI_Type_contiguous");
    const int code = MPI_Type_create_resized(piece, 0, static_cast<MPI_Aint>(stride), &type_);
    check(MPI_Type_free(&piece), "MPI_Type_free");
    check(code, "MPI_Type_create_resized");
    check(MPI_Type_commit(&type_), "MPI_Type_commit");
  }
  StridedType(const StridedType&) = delete;
  StridedType& operator=(const StridedType&) = delete;
  ~StridedType() { MPI_Type_free(&type_); }  // MPI keeps it until operations with it are over
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

class MpiTicket final : public Ticket {
 public:
  // seconds: of a wait().
  MpiTicket(const char* call, double seconds) : call_(call), seconds_(seconds) {}
  MpiTicket(const MpiTicket&) = delete;
  MpiTicket& operator=(const MpiTicket&) = delete;
  ~MpiTicket() override {
    PoliteWait wait;
    while (!unwinding_ && !done()) wait.pause();
  }

  // Where the next request is to be put. `awaited_bytes`: what a receive must bring, else -1.
  MPI_Request* add(int awaited_bytes = -1) {
    parts_.push_back({MPI_REQUEST_NULL, awaited_bytes});
    return &parts_.back().request;
  }

  bool done() override {
    try {
      while (failure_ == nullptr && finished_ < parts_.size()) {
        if (!test(parts_[finished_])) return false;
        ++finished_;
      }
    } catch (const CommError&) {
      failure_ = std::current_exception();
    }
    return true;
  }

  void wait() override {
    Patience patience(seconds_);
    PoliteWait wait;
    while (!done()) {
      if (patience.ends()) failure_ = std::make_exception_ptr(HangError(too_long()));
      wait.pause();
    }
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }

 private:
  struct Part {
    MPI_Request request;
    int awaited_bytes;
  };

  bool test(Part& part) const {
    int flag = 0;
    MPI_Status status;
    check(MPI_Test(&part.request, &flag, &status), call_);
    if (flag == 0) return false;
    if (part.awaited_bytes < 0) return true;
    int bytes = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
    if (bytes != part.awaited_bytes) {
      throw CommError(fmt::format("{}: {} bytes came from rank {} where {} were awaited", call_,
                                  bytes, status.MPI_SOURCE, part.awaited_bytes));
    }
    return true;
  }

  std::string too_long() const {
    return fmt::format("{}: another rank did not arrive within {} s (parallel.timeout)", call_,
                       seconds_);
  }

  const char* call_;
  double seconds_;
  std::vector<Part> parts_;
  size_t finished_ = 0;
  std::exception_ptr failure_;
  Unwinding unwinding_;
};

class MpiCommunicator final : public Communicator {
 public:
  // session: for the whole job's communicator, which ends MPI when it goes.
  MpiCommunicator(MPI_Comm comm, int64_t max_bytes, std::unique_ptr<Session> session = nullptr)
      : session_(std::move(session)), handle_(comm), max_bytes_(max_bytes) {
    check(MPI_Comm_rank(comm, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm, &size_), "MPI_Comm_size");
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string name() const override { return "mpi"; }

  void barrier() override {
    record_operation();
    meet("barrier");
  }

  void limit_waits(double seconds) override { wait_seconds_ = seconds; }

  std::unique_ptr<Communicator> split(int color, int key) override {
    record_operation();
    meet("split");
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(handle_.get(), color < 0 ? MPI_UNDEFINED : color, key, &part),
          "MPI_Comm_split");
    if (part == MPI_COMM_NULL) return nullptr;
    auto ranks = std::make_unique<MpiCommunicator>(part, max_bytes_);
    ranks->limit_waits(wait_seconds_);
    return ranks;
  }

  [[noreturn]] void abort(int code) noexcept override {
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, code);
    std::_Exit(code);
  }

 private:
  std::unique_ptr<Ticket> do_all_reduce(Tensor, Reduce, Stream&) override;
  std::unique_ptr<Ticket> do_all_gather(ConstTensor, Tensor, Stream&) override;
  std::unique_ptr<Ticket> do_broadcast(Tensor, int root, Stream&) override;
  std::unique_ptr<Ticket> do_shift(ConstTensor, int to, Tensor, int from, Stream&) override;
  HostPlace find_host_place() override;

  // All ranks are here, so that a call of MPI that blocks until they are does not block for long.
  void meet(const char* call) const {
    MpiTicket ticket(call, wait_seconds_);
    check(MPI_Ibarrier(handle_.get(), ticket.add()), "MPI_Ibarrier");
    ticket.wait();
  }
  std::unique_ptr<MpiTicket> ticket_of(const char* call) const {
    return std::make_unique<MpiTicket>(call, wait_seconds_);
  }

  // piece(offset, count) for consecutive pieces of at most `most` of `total`; at least one, maybe
  // empty, so that a rank with nothing still meets its peers and a difference shows.
  template <class Piece>
  static void in_pieces(int64_t total, int64_t most, const Piece& piece) {
    int64_t offset = 0;
    do {
      const int64_t count = std::min(most, total - offset);
      piece(offset, static_cast<int>(count));
      offset += count;
    } while (offset < total);
  }

  std::unique_ptr<Session> session_;  // before the handle, which is freed while MPI still runs
  Handle handle_;
  int64_t max_bytes_;
  int rank_ = 0, size_ = 1;
  double wait_seconds_ = Patience::kEndless;
};

std::unique_ptr<Ticket> MpiCommunicator::do_all_reduce(Tensor inout, Reduce how, Stream&) {
  auto ticket = ticket_of("all_reduce");
  const int64_t width = bytes_of(inout.dtype);
  in_pieces(inout.elements(), max_bytes_ / width, [&](int64_t offset, int count) {
    check(MPI_Iallreduce(MPI_IN_PLACE, inout.data + offset * width, count, mpi_type(inout.dtype),
                         mpi_op(how), handle_.get(), ticket->add()),
          "MPI_Iallreduce");
  });
  return ticket;
}

std::unique_ptr<Ticket> MpiCommunicator::do_all_gather(ConstTensor shard, Tensor whole, Stream&) {
  auto ticket = ticket_of("all_gather");
  const int64_t bytes = shard.bytes();
  const bool in_place = bytes > 0 && shard.data == whole.data + rank_ * bytes;
  if (whole.bytes() <= max_bytes_) {
    const int count = static_cast<int>(bytes);
    check(MPI_Iallgather(in_place ? MPI_IN_PLACE : shard.data, count, MPI_BYTE, whole.data, count,
                         MPI_BYTE, handle_.get(), ticket->add()),
          "MPI_Iallgather");
    return ticket;
  }
  in_pieces(bytes, std::max<int64_t>(max_bytes_ / size_, 1), [&](int64_t offset, int count) {
    const StridedType piece(count, bytes);
    const void* from = in_place ? MPI_IN_PLACE : shard.data + offset;
    check(MPI_Iallgather(from, count, MPI_BYTE, whole.data + offset, 1, piece.get(), handle_.get(),
                         ticket->add()),
          "MPI_Iallgather");
  });
  return ticket;
}

std::unique_ptr<Ticket> MpiCommunicator::do_broadcast(Tensor inout, int root, Stream&) {
  auto ticket = ticket_of("broadcast");
  in_pieces(inout.bytes(), max_bytes_, [&](int64_t offset, int count) {
    check(MPI_Ibcast(inout.data + offset, count, MPI_BYTE, root, handle_.get(), ticket->add()),
          "MPI_Ibcast");
  });
  return ticket;
}

std::unique_ptr<Ticket> MpiCommunicator::do_shift(ConstTensor out, int to, Tensor in, int from,
                                                  Stream&) {
  constexpr int kTag = 0;
  auto ticket = ticket_of("shift");
  if (from != kNoRank) {
    in_pieces(in.bytes(), max_bytes_, [&](int64_t offset, int count) {
      check(MPI_Irecv(in.data + offset, count, MPI_BYTE, from, kTag, handle_.get(),
                      ticket->add(count)),
            "MPI_Irecv");
    });
  }
  if (to != kNoRank) {
    in_pieces(out.bytes(), max_bytes_, [&](int64_t offset, int count) {
      check(MPI_Isend(out.data + offset, count, MPI_BYTE, to, kTag, handle_.get(), ticket->add()),
            "MPI_Isend");
    });
  }
  return ticket;
}

HostPlace MpiCommunicator::find_host_place() {
  meet("host_place");
  MPI_Comm host = MPI_COMM_NULL;
  check(MPI_Comm_split_type(handle_.get(), MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host),
        "MPI_Comm_split_type");
  const MpiCommunicator here(host, max_bytes_);
  return {here.rank(), here.size()};
}

void refuse_second() {
  int initialised = 0;  // stays 1 when MPI has ended
  check(MPI_Initialized(&initialised), "MPI_Initialized");
  if (initialised != 0) {
    throw CommError("MPI was started before in this process: it starts once, and not again");
  }
}

std::string library_name() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  check(MPI_Get_library_version(text, &length), "MPI_Get_library_version");
  return std::string(text, static_cast<size_t>(length)).substr(0, std::string_view(text).find(','));
}

// Ends MPI where it cannot serve; all ranks come here together or are alone.
void refuse_bad_start(Session& session, const LaunchFacts& facts) {
  int ranks = 0;
  check(MPI_Comm_size(MPI_COMM_WORLD, &ranks), "MPI_Comm_size");
  std::string problem;
  if (ranks == 1 && facts.ranks > 1) {
    problem = fmt::format(
        "the launcher started {} ranks, but MPI sees 1: launch with the mpirun of the MPI library "
        "in use ({}), or with srun --mpi=pmix",
        facts.ranks, library_name());
  } else if (!session.has_threads()) {
    problem = fmt::format("the MPI library ({}) lacks MPI_THREAD_MULTIPLE: use one built with it",
                          library_name());
  }
  if (problem.empty()) return;
  session.close();
  throw CommError(problem);
}

}  // namespace

std::unique_ptr<Communicator> make_mpi(int64_t max_bytes) {
  require(max_bytes > 0 && max_bytes <= kMpiMaxBytes && max_bytes % 8 == 0,
          "limit of MPI messages");
  refuse_second();
  const LaunchFacts facts = read_launch_facts();
  if (facts.ranks > 1 && !facts.has_pmi) {
    throw CommError(fmt::format(
        "srun started {} tasks without a way to find each other: use srun --mpi=pmix, or mpirun",
        facts.ranks));
  }
  prepare_mpi_environment(facts);
  auto session = std::make_unique<Session>();
  refuse_bad_start(*session, facts);
  MPI_Comm world = MPI_COMM_NULL;  // traffic of its own, apart from others' on MPI_COMM_WORLD
  check(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  return std::make_unique<MpiCommunicator>(world, max_bytes, std::move(session));
}

std::unique_ptr<Communicator> make_mpi() { return make_mpi(kMpiMaxBytes); }

}  // namespace rwkv
