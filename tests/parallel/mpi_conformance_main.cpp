// The conformance checks under mpirun. mpi_conformance [MAX_BYTES]: the largest MPI message, so
// that small tensors go in pieces. mpi_conformance staged: of tensors that the host cannot touch.
// mpi_conformance abort CODE: the last rank aborts while the others wait. mpi_conformance absent:
// it stays away from every kind of call, and the others notice.
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "parallel/mpi_internal.h"
#include "tests/parallel/conformance.h"
#include "tests/parallel/through_device.h"
#include "tests/support/walled_memory.h"

namespace {

using namespace rwkv;

void a_second_world_is_refused() {
  conformance::expect_throw<CommError>([] { make_mpi(); }, "a second make_mpi()");
}

void lengths_of_a_shift_must_match(Communicator& comm) {
  if (comm.size() < 2) return;
  Stream stream;
  for (const int64_t sent : {3, 5}) {
    std::vector<float> values(5);
    if (comm.rank() == 0) {
      comm.shift(view_of(values.data(), {sent}), 1, {}, kNoRank, stream)->wait();
    } else if (comm.rank() == 1) {
      const auto ticket = comm.shift({}, kNoRank, view_of(values.data(), {4}), 0, stream);
      conformance::expect_throw<CommError>([&] { ticket->wait(); }, "another length");
      conformance::expect(ticket->done(), "what failed is done");
    }
    comm.barrier();
  }
}

// Returns whether the check failed on any rank.
template <class Run>
bool fails(Communicator& comm, const char* name, const Run& run) {
  bool failed = false;
  try {
    run();
  } catch (const std::exception& error) {
    failed = true;
    std::fprintf(stderr, "rank %d of %d: %s: %s\n", comm.rank(), comm.size(), name, error.what());
  }
  return comm.max(failed ? 1 : 0) != 0;
}

int run_checks(Communicator& comm, bool in_pieces) {
  int done = 0, failed = 0;
  for (const conformance::Check& check : conformance::all_checks()) {
    ++done;
    failed += fails(comm, check.name, [&] { check.run(comm); });
  }
  ++done;
  failed += fails(comm, "ASecondWorldIsRefused", a_second_world_is_refused);
  if (!in_pieces) {  // else a difference of lengths is one of numbers of messages: nobody sees it
    ++done;
    failed += fails(comm, "LengthsOfAShiftMustMatch", [&] { lengths_of_a_shift_must_match(comm); });
  }
  if (comm.rank() == 0 && failed == 0) std::printf("ok %d checks\n", done);
  return failed == 0 ? 0 : 1;
}

// Each call on ranks of its own, as they are good for nothing afterwards.
[[noreturn]] void miss_the_last_rank(Communicator& comm) {
  using Call = std::function<void(Communicator&)>;
  Stream stream;
  std::vector<float> values(8 * static_cast<size_t>(comm.size())), own(8);
  const Tensor whole = view_of(values.data(), {static_cast<int64_t>(values.size())});
  const int absent = comm.size() - 1;
  const std::vector<std::pair<const char*, Call>> calls = {
      {"barrier", [](Communicator& c) { c.barrier(); }},
      {"split", [](Communicator& c) { c.split(0, 0); }},
      {"host_place", [](Communicator& c) { host_place(c); }},
      {"all_reduce", [](Communicator& c) { c.max(1); }},
      {"all_reduce", [&](Communicator& c) { c.all_reduce(whole, Reduce::kSum, stream)->wait(); }},
      {"all_gather",
       [&](Communicator& c) { c.all_gather(view_of(own.data(), {8}), whole, stream)->wait(); }},
      {"broadcast", [&](Communicator& c) { c.broadcast(whole, absent, stream)->wait(); }},
      {"shift", [&](Communicator& c) { c.shift({}, kNoRank, whole, absent, stream)->wait(); }},
      {"barrier", [](Communicator& c) { c.split(0, 0)->barrier(); }}};
  std::vector<std::unique_ptr<Communicator>> groups;
  for (size_t i = 0; i < calls.size(); ++i) groups.push_back(comm.split(0, comm.rank()));
  const auto others = comm.split(comm.rank() == absent ? -1 : 0, comm.rank());
  if (comm.rank() == absent) {
    groups.back()->split(0, 0);
    comm.barrier();  // nobody comes; without a limit it waits
  }
  int failed = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    groups[i]->limit_waits(0.2);
    const std::string want =
        calls[i].first +
        std::string(": another rank did not arrive within 0.2 s (parallel.timeout)");
    std::string said = "nothing";
    try {
      calls[i].second(*groups[i]);
    } catch (const HangError& error) {
      said = error.what();
    }
    if (said == want) continue;
    ++failed;
    std::fprintf(stderr, "'%s' where '%s' was awaited\n", said.c_str(), want.c_str());
  }
  const bool bad = others->max(failed) > 0;
  if (others->rank() == 0 && !bad) std::printf("ok %zu calls\n", calls.size());
  if (others->rank() != 0) others->barrier();  // ended by rank 0
  comm.abort(86);
  __builtin_unreachable();
}

int run(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const bool staged = mode == "staged";
  const bool in_pieces = !mode.empty() && std::isdigit(mode[0]) != 0;
  const int64_t max_bytes = in_pieces ? std::stoll(mode) : kMpiMaxBytes;
  const auto comm = make_mpi(max_bytes);
  conformance::expect(comm->name() == "mpi", "name");
  if (mode == "abort") {
    if (comm->rank() == comm->size() - 1) comm->abort(std::stoi(argv[2]));
    comm->barrier();
    return 0;
  }
  if (mode == "absent") miss_the_last_rank(*comm);
  if (staged) {
    conformance::ThroughDevice device(make_staged(*comm, walled_memory()), walled_memory());
    return run_checks(device, false);
  }
  return run_checks(*comm, in_pieces);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int code = run(argc, argv);
    a_second_world_is_refused();
    return code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mpi_conformance: %s\n", error.what());
    return 1;
  }
}
