// Ranks that are processes with a GPU each, as the library that the program opens at run time
// (parallel/nccl_library.h). NCCL's calls do not block: one
// that is still connecting to its partners is finished by the polls of its ticket, or by the next
// call.
#include <fmt/format.h>
#include <nccl.h>

#include <cstdio>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/agree.h"
#include "parallel/communicator.h"
#include "parallel/nccl/device_order.h"
#include "parallel/nccl/nccl_environment.h"
#include "parallel/nccl/nccl_ticket.h"
#include "parallel/nccl_library.h"
#include "parallel/ticket.h"

namespace rwkv {

namespace {

using nccl::Event;
using nccl::Operation;
using nccl::OwnStream;

// The one place where NCCL's return codes are looked at. Returns whether the call is through: else
// NCCL is at it still.
bool check(ncclResult_t code, const char* call, ncclComm_t comm) {
  if (code == ncclSuccess) [[likely]]
    return true;
  if (code == ncclInProgress) return false;
  const char* detail = ncclGetLastError(comm);
  throw CommError(fmt::format("{}: {}{}{}", call, ncclGetErrorString(code),
                              detail == nullptr || *detail == '\0' ? "" : ": ",
                              detail == nullptr ? "" : detail));
}

ncclDataType_t nccl_type(DType type) {
  switch (type) {
    case DType::kF64:
      return ncclFloat64;
    case DType::kF32:
      return ncclFloat32;
    case DType::kI64:
      return ncclInt64;
    case DType::kI32:
      return ncclInt32;
    default:
      throw Error(fmt::format("internal: all_reduce of {}", name_of(type)));
  }
}

ncclRedOp_t nccl_op(Reduce how) {
  return how == Reduce::kSum ? ncclSum : how == Reduce::kMax ? ncclMax : ncclMin;
}

class NcclCommunicator final : public Communicator, public nccl::Keeper {
 public:
  NcclCommunicator(Communicator& control, std::unique_ptr<Communicator> owned,
                   const NcclSettings& settings, std::string label)
      : owned_(std::move(owned)),
        control_(control),
        settings_(settings),
        label_(std::move(label)) {}
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  ~NcclCommunicator() override;

  // Collective; once, before all else.
  void connect();

  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }
  std::string name() const override { return "nccl"; }
  Communicator& host() override { return control_; }

  void barrier() override {
    record_operation();
    control_.barrier();
  }
  std::unique_ptr<Communicator> split(int color, int key) override;
  void settle() override;
  [[noreturn]] void abort(int code) noexcept override;

 private:
  std::unique_ptr<Ticket> do_all_reduce(Tensor, Reduce, Stream&) override;
  std::unique_ptr<Ticket> do_all_gather(ConstTensor, Tensor, Stream&) override;
  std::unique_ptr<Ticket> do_broadcast(Tensor, int root, Stream&) override;
  std::unique_ptr<Ticket> do_shift(ConstTensor, int to, Tensor, int from, Stream&) override;
  HostPlace find_host_place() override { return host_place(control_); }
  void copy_local(Stream& stream, const Tensor& to, const ConstTensor& from) override {
    nccl::copy_on_device(stream.native, to.data, from.data, from.bytes());
  }

  bool poll(Operation&, bool over) override;
  void await_start(Operation&) override;
  void give_back(std::unique_ptr<Event> event) override { events_.push_back(std::move(event)); }

  // work(stream) calls NCCL and returns its code.
  template <class Work>
  std::unique_ptr<Ticket> begin(const char* call, const Stream&, const Work& work);

  bool nccl_is_ready(const char* call);
  void start(Operation&);
  void check_time(const char* call, Patience&) const;
  template <class Work>
  void guarded(const Work&);
  void close();

  std::unique_ptr<Communicator> owned_;  // of a part of the ranks
  Communicator& control_;
  NcclSettings settings_;
  std::string label_;
  std::thread::id issuer_ = std::this_thread::get_id();
  std::unique_ptr<OwnStream> stream_;
  std::unique_ptr<Event> given_;  // what the caller's stream was given before an operation
  std::vector<std::unique_ptr<Event>> events_;  // to use again
  ncclComm_t comm_ = nullptr;
  std::shared_ptr<Operation> starting_;  // the latest, until it has started
  std::exception_ptr broken_;            // the first failure
  int parts_ = 0;                        // splits so far
  Unwinding unwinding_;
};

// Names the rank in what `work` throws, and remembers it: NCCL is of no use afterwards.
template <class Work>
void NcclCommunicator::guarded(const Work& work) {
  if (broken_ != nullptr) std::rethrow_exception(broken_);
  try {
    return work();
  } catch (const CommError& error) {
    const std::string what = fmt::format("nccl, rank {} of {}: {}", rank(), size(), error.what());
    const bool hangs = error.exit_code() == ExitCode::kHang;
    broken_ =
        hangs ? std::make_exception_ptr(HangError(what)) : std::make_exception_ptr(CommError(what));
  }
  std::rethrow_exception(broken_);
}

void NcclCommunicator::check_time(const char* call, Patience& patience) const {
  if (!patience.ends()) return;
  throw HangError(
      fmt::format("{}: not over after {} s (parallel.timeout)", call, settings_.timeout_seconds));
}

bool NcclCommunicator::nccl_is_ready(const char* call) {
  ncclResult_t state = ncclSuccess;
  check(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError", comm_);
  return check(state, call, comm_);
}

void NcclCommunicator::start(Operation& operation) {
  operation.over->record(stream_->get());
  operation.started = true;
  starting_ = nullptr;
}

bool NcclCommunicator::poll(Operation& operation, bool over) {
  bool reached = false;
  guarded([&] {
    const bool ready = nccl_is_ready(operation.call);
    if (!operation.started && ready) start(operation);
    reached = operation.started && (!over || operation.over->over());
    if (!reached) check_time(operation.call, operation.patience);
  });
  return reached;
}

void NcclCommunicator::await_start(Operation& operation) {
  PoliteWait wait;
  while (!poll(operation, false)) wait.pause();
}

void NcclCommunicator::settle() {
  if (starting_ != nullptr) await_start(*std::shared_ptr(starting_));
  guarded([&] {
    Patience patience(settings_.timeout_seconds);
    PoliteWait wait;
    while (!stream_->over()) {
      nccl_is_ready("an operation");
      check_time("operations under way", patience);
      wait.pause();
    }
    nccl_is_ready("an operation");
  });
}

template <class Work>
std::unique_ptr<Ticket> NcclCommunicator::begin(const char* call, const Stream& stream,
                                                const Work& work) {
  if (starting_ != nullptr) await_start(*std::shared_ptr(starting_));
  auto operation = std::make_shared<Operation>();
  guarded([&] {
    if (events_.empty()) events_.push_back(std::make_unique<Event>());
    *operation = {call, stream.native, Patience(settings_.timeout_seconds),
                  std::move(events_.back())};
    events_.pop_back();
    given_->record(stream.native);
    given_->hold_back(stream_->get());
    starting_ = operation;
    if (check(work(static_cast<cudaStream_t>(stream_->get())), call, comm_)) start(*operation);
  });
  return std::make_unique<nccl::NcclTicket>(*this, std::move(operation));
}

std::unique_ptr<Ticket> NcclCommunicator::do_all_reduce(Tensor inout, Reduce how, Stream& stream) {
  if (inout.bytes() == 0) return std::make_unique<DoneTicket>();
  return begin("ncclAllReduce", stream, [&](cudaStream_t on) {
    return ncclAllReduce(inout.data, inout.data, static_cast<size_t>(inout.elements()),
                         nccl_type(inout.dtype), nccl_op(how), comm_, on);
  });
}

std::unique_ptr<Ticket> NcclCommunicator::do_all_gather(ConstTensor shard, Tensor whole,
                                                        Stream& stream) {
  if (whole.bytes() == 0) return std::make_unique<DoneTicket>();
  return begin("ncclAllGather", stream, [&](cudaStream_t on) {
    return ncclAllGather(shard.data, whole.data, static_cast<size_t>(shard.bytes()), ncclUint8,
                         comm_, on);
  });
}

std::unique_ptr<Ticket> NcclCommunicator::do_broadcast(Tensor inout, int root, Stream& stream) {
  if (inout.bytes() == 0) return std::make_unique<DoneTicket>();
  return begin("ncclBroadcast", stream, [&](cudaStream_t on) {
    return ncclBroadcast(inout.data, inout.data, static_cast<size_t>(inout.bytes()), ncclUint8,
                         root, comm_, on);
  });
}

std::unique_ptr<Ticket> NcclCommunicator::do_shift(ConstTensor out, int to, Tensor in, int from,
                                                   Stream& stream) {
  const bool sends = to != kNoRank && out.bytes() > 0, receives = from != kNoRank && in.bytes() > 0;
  if (!sends && !receives) return std::make_unique<DoneTicket>();
  return begin("ncclSend and ncclRecv", stream, [&](cudaStream_t on) {
    check(ncclGroupStart(), "ncclGroupStart", comm_);
    ncclResult_t sent = ncclSuccess, received = ncclSuccess;
    if (sends) {
      sent = ncclSend(out.data, static_cast<size_t>(out.bytes()), ncclUint8, to, comm_, on);
    }
    if (receives) {
      received = ncclRecv(in.data, static_cast<size_t>(in.bytes()), ncclUint8, from, comm_, on);
    }
    const ncclResult_t group = ncclGroupEnd();
    check(sent, "ncclSend", comm_);
    check(received, "ncclRecv", comm_);
    return group;
  });
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key) {
  record_operation();
  if (starting_ != nullptr) await_start(*std::shared_ptr(starting_));
  const std::string label = fmt::format("{}.{}", label_, parts_++);
  auto ranks = control_.split(color, key);
  if (ranks == nullptr) return nullptr;
  Communicator& control = *ranks;
  auto part = std::make_unique<NcclCommunicator>(control, std::move(ranks), settings_, label);
  part->connect();
  return part;
}

void NcclCommunicator::connect() {
  agree(control_, [&] {
    guarded([&] {
      nccl::use_device(settings_.device);
      stream_ = std::make_unique<OwnStream>();
      given_ = std::make_unique<Event>();
    });
  });
  ncclUniqueId id{};
  on_root(control_,
          [&] { guarded([&] { check(ncclGetUniqueId(&id), "ncclGetUniqueId", nullptr); }); });
  Stream none;
  control_
      .broadcast(view_of(reinterpret_cast<uint8_t*>(id.internal), {sizeof id.internal}), 0, none)
      ->wait();
  agree(control_, [&] {
    guarded([&] {
      Patience patience(settings_.timeout_seconds);
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 0;
      config.commName = label_.c_str();
      constexpr const char* kCall = "ncclCommInitRankConfig";
      check(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), kCall, nullptr);
      PoliteWait wait;
      while (!nccl_is_ready(kCall)) {
        check_time(kCall, patience);
        wait.pause();
      }
    });
  });
}

// Waits for what is under way on all ranks.
void NcclCommunicator::close() {
  settle();
  guarded([&] {
    Patience patience(settings_.timeout_seconds);
    check(ncclCommFinalize(comm_), "ncclCommFinalize", comm_);
    PoliteWait wait;
    while (!nccl_is_ready("ncclCommFinalize")) {
      check_time("ncclCommFinalize", patience);
      wait.pause();
    }
  });
}

NcclCommunicator::~NcclCommunicator() {
  if (comm_ == nullptr) return;
  bool closed = false;
  if (!unwinding_ && broken_ == nullptr) {
    try {
      close();
      closed = true;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rwkv-dist: %s\n", error.what());
    }
  }
  // Nothing is left to be done about a failure here.
  if (closed) {
    static_cast<void>(ncclCommDestroy(comm_));
  } else {
    static_cast<void>(ncclCommAbort(comm_));
  }
}

// From another thread NCCL is left alone: the issuing thread may be inside it.
void NcclCommunicator::abort(int code) noexcept {
  if (comm_ != nullptr && std::this_thread::get_id() == issuer_) {
    static_cast<void>(ncclCommAbort(comm_));
  }
  control_.abort(code);
  __builtin_unreachable();
}

}  // namespace

}  // namespace rwkv

extern "C" rwkv::Communicator* rwkv_nccl_make(rwkv::Communicator& control,
                                              const rwkv::NcclSettings& settings) {
  rwkv::require(settings.timeout_seconds > 0, "a time limit of NCCL");
  rwkv::prepare_nccl_environment(settings, control.rank());
  auto comm = std::make_unique<rwkv::NcclCommunicator>(control, nullptr, settings, "rwkv");
  comm->connect();
  return comm.release();
}

extern "C" void rwkv_nccl_version(char* text, int size) {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) version = 0;
  std::snprintf(text, static_cast<size_t>(size), "%d.%d.%d", version / 10000, version / 100 % 100,
                version % 100);
}
