#include "parallel/launch_environment.h"

#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string_view>

#include "core/base/error.h"
#include "parallel/communicator.h"

namespace rwkv {

namespace {

// A positive whole number, else 0.
int count_of(const char* text) {
  if (text == nullptr) return 0;
  const std::string_view digits(text);
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return error == std::errc() && end == digits.data() + digits.size() && value > 0 ? value : 0;
}

int first_count(const Lookup& lookup, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const int count = count_of(lookup(name)); count > 0) return count;
  }
  return 0;
}

bool any(const Lookup& lookup, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (lookup(name) != nullptr) return true;
  }
  return false;
}

void set_unless_set(const char* name, const char* value) {
  if (setenv(name, value, 0) != 0) {
    throw CommError(std::string("cannot set ") + name + ": " + std::strerror(errno));
  }
}

}  // namespace

LaunchFacts read_launch_facts(const Lookup& lookup) {
  LaunchFacts facts;
  facts.has_pmi = any(lookup, {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"});
  facts.ranks = first_count(lookup, {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"});
  // Under mpirun in a Slurm job the step is that of mpirun's own daemons, so Slurm is asked last;
  // a step of one task may be an interactive shell.
  const int step_tasks = count_of(lookup("SLURM_STEP_NUM_TASKS"));
  const bool in_step = lookup("SLURM_STEP_ID") != nullptr && lookup("SLURM_PROCID") != nullptr;
  if (facts.ranks == 0 && in_step) facts.ranks = step_tasks;
  facts.launched = facts.has_pmi || (in_step && step_tasks > 1);
  facts.local_ranks = first_count(lookup, {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"});
  const char* bound = lookup("OMPI_MCA_orte_bound_at_launch");
  facts.bound = bound != nullptr && std::string_view(bound) == "1";
  return facts;
}

LaunchFacts read_launch_facts() {
  return read_launch_facts([](const char* name) -> const char* { return std::getenv(name); });
}

bool oversubscribed(const LaunchFacts& facts, int usable_cores, int host_cores) {
  // A bound rank sees its own cores alone, which says nothing about its neighbours'.
  return facts.local_ranks > (facts.bound ? host_cores : usable_cores);
}

void prepare_mpi_environment(const LaunchFacts& facts) {
  // The default of large nonblocking sums, a ring, takes about twice as long between two ranks.
  set_unless_set("OMPI_MCA_coll_libnbc_iallreduce_algorithm", "rabenseifner");
  const long host_cores = sysconf(_SC_NPROCESSORS_ONLN);
  cpu_set_t usable;
  CPU_ZERO(&usable);
  // Fails on hosts with more cores than the set has room for; they are all taken as usable then.
  const bool known = sched_getaffinity(0, sizeof usable, &usable) == 0;
  const int cores = static_cast<int>(host_cores > 0 ? host_cores : 1);
  if (oversubscribed(facts, known ? CPU_COUNT(&usable) : cores, cores)) {
    set_unless_set("OMPI_MCA_mpi_yield_when_idle", "1");
  }
}

bool under_launcher() { return read_launch_facts().launched; }

}  // namespace rwkv
