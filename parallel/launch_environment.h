// What launchers say in the environment, and what MPI is told there. Facts about ranks come from
// MPI itself; these serve to know whether to start it, and to notice that it saw something else.
#pragma once

#include <functional>
#include <string>

namespace rwkv {

struct LaunchFacts {
  bool launched = false;  // by a launcher that MPI can talk to, or by srun as one of several tasks
  bool has_pmi = false;   // the launcher offers PMI, PMI-2 or PMIx
  int ranks = 0;          // 0: not said
  int local_ranks = 0;    // on this host; 0: not said
  bool bound = false;     // each rank has cores of its own
};

// Looks a name up, nullptr when it is not there: std::getenv, or a table in tests.
using Lookup = std::function<const char*(const char*)>;

LaunchFacts read_launch_facts(const Lookup&);
LaunchFacts read_launch_facts();  // of this process

// Whether the ranks of this host have to share cores, so that one that waits should give way.
bool oversubscribed(const LaunchFacts&, int usable_cores, int host_cores);

// Before MPI_Init: asks Open MPI for the faster of its nonblocking sums and, when ranks share
// cores, to yield while it waits. What the user has set stays.
void prepare_mpi_environment(const LaunchFacts&);

}  // namespace rwkv
