#include "tests/parallel/conformance.h"

#include <gtest/gtest.h>

#include <tuple>

namespace rwkv {
namespace {

using conformance::all_checks;
using conformance::Check;

class SelfConformance : public testing::TestWithParam<Check> {};

TEST_P(SelfConformance, Holds) {
  const auto comm = make_self();
  EXPECT_EQ(comm->name(), "self");
  EXPECT_EQ(comm->size(), 1);
  GetParam().run(*comm);
}

class LocalConformance : public testing::TestWithParam<std::tuple<int, Check>> {};

TEST_P(LocalConformance, Holds) {
  const auto& [ranks, check] = GetParam();
  run_local(ranks, [&, n = ranks, run = check.run](Communicator& comm) {
    EXPECT_EQ(comm.name(), "local");
    EXPECT_EQ(comm.size(), n);
    run(comm);
  });
}

INSTANTIATE_TEST_SUITE_P(Self, SelfConformance, testing::ValuesIn(all_checks()),
                         [](const auto& p) { return std::string(p.param.name); });

INSTANTIATE_TEST_SUITE_P(Local, LocalConformance,
                         testing::Combine(testing::Values(1, 2, 3, 5, 8),
                                          testing::ValuesIn(all_checks())),
                         [](const auto& p) {
                           return std::string(std::get<1>(p.param).name) + "On" +
                                  std::to_string(std::get<0>(p.param));
                         });

}  // namespace
}  // namespace rwkv
