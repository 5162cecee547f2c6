// Ranks whose machines differ in what they would compute with are told, not mixed.
#include <gtest/gtest.h>

#include "core/train/job.h"
#include "parallel/agree.h"

namespace rwkv {
namespace {

TEST(Alike, RanksOfOneKindGoOn) {
  run_local(3, [](Communicator& ranks) {
    Machine machine;
    machine.ops = &cpu_backend();
    machine.precision_name = "bf16";
    require_alike(ranks, machine);
  });
}

TEST(Alike, TheFirstThatDiffersIsNamedOnAllRanks) {
  run_local(3, [](Communicator& ranks) {
    Machine machine;
    machine.ops = ranks.rank() == 0 ? &cpu_backend() : &reference_backend();
    machine.precision_name = "fp32";
    try {
      require_alike(ranks, machine);
      ADD_FAILURE() << "nothing was said";
    } catch (const AgreedError& error) {
      EXPECT_EQ(std::string(error.what())
                    .find("rank 1 would compute with reference in fp32, rank 0"
                          " with cpu in fp32"),
                0u)
          << error.what();
    }
  });
}

}  // namespace
}  // namespace rwkv
