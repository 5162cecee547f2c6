// How long passes are where train.micro_batch is auto, on memory that says how much of it is free.
#include "core/train/memory_room.h"

#include <gtest/gtest.h>

#include "core/model/sequence_runner.h"
#include "core/train/trainer.h"
#include "tests/core/train/train_test_support.h"

namespace rwkv {
namespace {

using namespace test;

int64_t free_bytes = 0;

const Backend& backend_with_room() {
  static Memory memory = host_memory();
  memory.available = [] { return free_bytes; };
  static Backend ops = cpu_backend();
  ops.memory = &memory;
  return ops;
}

struct Passes {
  int64_t tokens;
  bool keeps_mixes;
  bool operator==(const Passes&) const = default;
};

class FitPasses : public testing::Test {
 protected:
  // 65,536 tokens in sequences as the recipe has them.
  static Recipe recipe(const std::vector<std::string>& more = {}) {
    std::vector<std::string> given = {"train.batch=4096", "train.context=16",
                                      "train.micro_batch=auto"};
    given.insert(given.end(), more.begin(), more.end());
    return small_recipe(given);
  }
  static Machine machine(const Recipe& r) {
    Machine m = one_thread(r);
    m.ops = &backend_with_room();
    return m;
  }
  static Passes fit(const Recipe& r, int64_t free) {
    free_bytes = free;
    Machine m = machine(r);
    fit_passes(r, complete_model(r), m, plan_mesh(r, 1, m.leaf));
    return {m.tokens_a_pass, m.keeps_mixes};
  }
  // Of all that training holds in passes of so many tokens.
  static int64_t planned(const Recipe& r, int64_t tokens, bool keeps_mixes) {
    Machine m = machine(r);
    m.keeps_mixes = keeps_mixes;
    const Model model(complete_model(r));
    const SequencePlan plan =
        plan_sequence(r, m, plan_mesh(r, 1, m.leaf), tokens / r.train.context);
    const auto ranks = make_planned(1);
    const SequenceRunner runner(model, plan, *ranks, *m.ops, false);
    int64_t bytes = 0;
    for (const auto& entry : runner.entries()) bytes += entry.bytes;
    for (const auto& entry : plan_param_store(model.params(), m.precision, true, m.leaf > 0, {})) {
      bytes += entry.bytes;
    }
    return bytes;
  }
};

TEST_F(FitPasses, AreTheLongestThatNineTenthsOfTheMemoryHold) {
  const Recipe r = recipe();
  const int64_t kept = planned(r, 65536, true), without = planned(r, 65536, false);
  ASSERT_LT(without, kept);
  ASSERT_LT(planned(r, 32768, true), without);
  EXPECT_EQ(fit(r, kept / 9 * 10 + 1000), (Passes{65536, true}));
  // Mixes go where passes are twice as long for it.
  EXPECT_EQ(fit(r, (kept + without) / 2 / 9 * 10), (Passes{65536, false}));
  EXPECT_EQ(fit(r, without / 9 * 10 - 1000), (Passes{32768, true}));
}

TEST_F(FitPasses, StayWhereTheRecipeSaysThemOrNothingIsKnown) {
  const Passes as_it_was{Machine{}.tokens_a_pass, true};
  EXPECT_EQ(fit(recipe({"train.micro_batch=2"}), 1), as_it_was);
  EXPECT_EQ(fit(recipe(), -1), as_it_was);
}

// Ranks take what the least of them has room for, and a run that goes on what it had before.
TEST_F(FitPasses, AreTheSameOnAllRanksAndWhenARunGoesOn) {
  const Recipe fast = recipe({"precision=fp32", "parallel.reduction=fast"});
  const Recipe exact = recipe({"precision=fp32", "parallel.reduction=exact"});
  free_bytes = planned(fast, 65536, true) * 2;
  const auto settled = [&](const Recipe& r, int64_t before) {
    int64_t tokens = 0;
    run_local(2, [&](Communicator& ranks) {
      Machine m = machine(r);
      settle_passes(r, complete_model(r), m, plan_mesh(r, 1, m.leaf), before, ranks);
      if (ranks.rank() == 0) tokens = fitted_tokens(r, m);
    });
    return tokens;
  };
  EXPECT_EQ(settled(fast, 0), 65536);
  EXPECT_EQ(settled(fast, 8192), 8192);
  EXPECT_EQ(settled(exact, 8192), 65536) << "its bits do not depend on it";
  free_bytes = planned(fast, 4096, false) / 9 * 10 + 1000;
  EXPECT_EQ(settled(fast, 8192), 4096) << "there is no more room";
  EXPECT_EQ(settled(recipe({"train.micro_batch=2"}), 8192), 0);
}

TEST_F(FitPasses, APlanThatLeavesLibrariesNothingIsRefused) {
  const std::vector<Arena::Entry> plan = {{"weights", int64_t{9} << 30},
                                          {"stash", int64_t{1} << 30}};
  const Memory& memory = *backend_with_room().memory;
  free_bytes = (int64_t{10} << 30) + (int64_t{300} << 20);
  EXPECT_NO_THROW(require_room(memory, plan));
  free_bytes = (int64_t{10} << 30) + (int64_t{200} << 20);
  try {
    require_room(memory, plan);
    ADD_FAILURE() << "nothing was said";
  } catch (const InputError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("10 GiB are planned a rank, 10 GiB are free, 256 MiB of them kept"),
              std::string::npos)
        << text;
    EXPECT_LT(text.find("GiB  weights"), text.find("GiB  stash"));
  }
  free_bytes = -1;
  EXPECT_NO_THROW(require_room(memory, plan));
}

}  // namespace
}  // namespace rwkv
