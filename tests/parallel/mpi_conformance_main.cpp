// The conformance checks under mpirun. mpi_conformance [MAX_BYTES]: the largest MPI message, so
// that small tensors go in pieces. mpi_conformance staged: of tensors that the host cannot touch.
// mpi_conformance abort CODE: the last rank aborts while the others wait.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

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
  int done = 2, failed = 0;
  for (const conformance::Check& check : conformance::all_checks()) {
    ++done;
    failed += fails(comm, check.name, [&] { check.run(comm); });
  }
  failed += fails(comm, "ASecondWorldIsRefused", a_second_world_is_refused);
  // In pieces a difference of lengths is one of numbers of messages, which nobody sees.
  failed += fails(comm, "LengthsOfAShiftMustMatch", [&] {
    if (!in_pieces) lengths_of_a_shift_must_match(comm);
  });
  if (comm.rank() == 0 && failed == 0) std::printf("ok %d checks\n", done);
  return failed == 0 ? 0 : 1;
}

int run(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const bool staged = mode == "staged";
  const int64_t max_bytes = argc == 2 && !staged ? std::stoll(mode) : kMpiMaxBytes;
  const auto comm = make_mpi(max_bytes);
  conformance::expect(comm->name() == "mpi", "name");
  if (mode == "abort") {
    if (comm->rank() == comm->size() - 1) comm->abort(std::stoi(argv[2]));
    comm->barrier();
    return 0;
  }
  if (staged) {
    conformance::ThroughDevice device(make_staged(*comm, walled_memory()), walled_memory());
    return run_checks(device, false);
  }
  return run_checks(*comm, max_bytes != kMpiMaxBytes);
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
