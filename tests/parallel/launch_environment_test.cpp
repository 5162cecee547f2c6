#include "parallel/launch_environment.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "parallel/communicator.h"

namespace rwkv {
namespace {

using Table = std::map<std::string, std::string>;

LaunchFacts facts_of(const Table& table) {
  return read_launch_facts([&](const char* name) {
    const auto row = table.find(name);
    return row == table.end() ? nullptr : row->second.c_str();
  });
}

TEST(LaunchFacts, SayNothingWithoutALauncher) {
  const LaunchFacts facts = facts_of({{"HOME", "/"}});
  EXPECT_FALSE(facts.launched);
  EXPECT_FALSE(facts.has_pmi);
  EXPECT_EQ(facts.ranks, 0);
  EXPECT_EQ(facts.local_ranks, 0);
}

TEST(LaunchFacts, KnowMpirun) {
  const LaunchFacts facts = facts_of({{"OMPI_COMM_WORLD_SIZE", "6"},
                                      {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"},
                                      {"OMPI_MCA_orte_bound_at_launch", "1"}});
  EXPECT_TRUE(facts.launched);
  EXPECT_EQ(facts.ranks, 6);
  EXPECT_EQ(facts.local_ranks, 3);
  EXPECT_TRUE(facts.bound);
}

TEST(LaunchFacts, KnowASlurmStepWithPmix) {
  const LaunchFacts facts = facts_of({{"PMIX_RANK", "0"},
                                      {"SLURM_STEP_ID", "0"},
                                      {"SLURM_PROCID", "0"},
                                      {"SLURM_STEP_NUM_TASKS", "4"}});
  EXPECT_TRUE(facts.launched);
  EXPECT_TRUE(facts.has_pmi);
  EXPECT_EQ(facts.ranks, 4);
}

TEST(LaunchFacts, BelieveMpirunBeforeTheStepOfItsDaemons) {
  const LaunchFacts facts = facts_of({{"OMPI_COMM_WORLD_SIZE", "8"},
                                      {"SLURM_STEP_ID", "0"},
                                      {"SLURM_PROCID", "0"},
                                      {"SLURM_STEP_NUM_TASKS", "2"}});
  EXPECT_EQ(facts.ranks, 8);
}

TEST(LaunchFacts, TakeABatchScriptForNoLauncher) {
  EXPECT_FALSE(facts_of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}).launched);
}

TEST(LaunchFacts, TakeAnInteractiveShellForNoLauncher) {
  const LaunchFacts facts =
      facts_of({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}});
  EXPECT_FALSE(facts.launched);
}

TEST(LaunchFacts, IgnoreWhatIsNoCount) {
  for (const char* text : {"", "-2", "0", "4x", "99999999999"}) {
    EXPECT_EQ(facts_of({{"PMI_SIZE", text}}).ranks, 0) << text;
  }
}

TEST(Oversubscribed, ComparesBoundRanksWithTheHostAndFreeOnesWithTheirCores) {
  const LaunchFacts bound{.local_ranks = 2, .bound = true}, free{.local_ranks = 8, .bound = false};
  EXPECT_FALSE(oversubscribed(bound, 1, 2));
  EXPECT_TRUE(oversubscribed(bound, 1, 1));
  EXPECT_TRUE(oversubscribed(free, 2, 64));
  EXPECT_FALSE(oversubscribed(free, 8, 8));
  EXPECT_FALSE(oversubscribed({}, 1, 1));
}

// In a process of its own, since the environment and MPI are one for a process.
void start_mpi_with(const Table& environment) {
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  try {
    make_mpi();
  } catch (const CommError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(3);
  }
  std::exit(0);
}

TEST(MakeMpiDeathTest, RefusesASlurmStepWithoutPmi) {
  EXPECT_EXIT(start_mpi_with(
                  {{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "4"}}),
              testing::ExitedWithCode(3), "srun started 4 tasks .* --mpi=pmix");
}

TEST(MakeMpiDeathTest, RefusesToRunAloneWhereTheLauncherStartedMore) {
  EXPECT_EXIT(start_mpi_with({{"PMI_SIZE", "4"}, {"PMI_RANK", "0"}}), testing::ExitedWithCode(3),
              "launcher started 4 ranks, but MPI sees 1");
}

}  // namespace
}  // namespace rwkv
