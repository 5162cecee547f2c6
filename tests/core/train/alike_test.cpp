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
    settle_alike(ranks, machine);
  });
}

TEST(Alike, TheFirstThatDiffersIsNamedOnAllRanks) {
  run_local(3, [](Communicator& ranks) {
    Machine machine;
    machine.ops = ranks.rank() == 0 ? &cpu_backend() : &reference_backend();
    machine.precision_name = "fp32";
    try {
      settle_alike(ranks, machine);
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

TEST(Alike, OfInstructionSetsTheBestThatAllHaveIsTaken) {
  EXPECT_EQ(first_common({"avx512 avx2 generic ", "avx512 avx2 generic "}), "avx512");
  EXPECT_EQ(first_common({"avx512 avx2 generic ", "avx2 generic "}), "avx2");
  EXPECT_EQ(first_common({"avx2 generic ", "avx512 avx2 generic ", "generic "}), "generic");
  EXPECT_EQ(first_common({"avx2 ", "avx "}), "");
  run_local(2, [](Communicator& ranks) {
    Machine machine;
    machine.ops = ranks.rank() == 0 ? &cpu_backend() : &cpu_backend(cpu_isas().back());
    machine.precision_name = "fp32";
    settle_alike(ranks, machine);
    EXPECT_EQ(machine.ops->isa, cpu_isas().front());  // both run on this machine
  });
}

TEST(Alike, ValuesThatDifferAreSaidOnAllRanks) {
  run_local(3, [](Communicator& ranks) {
    require_same(ranks, 7, "never said");
    EXPECT_THROW(require_same(ranks, ranks.rank() == 2 ? 8 : 7, "they differ"), AgreedError);
  });
}

}  // namespace
}  // namespace rwkv
