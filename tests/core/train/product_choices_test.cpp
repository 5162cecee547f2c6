// Algorithms of products: measured before the first step, one choice a shape for all ranks.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>

#include "tests/core/train/train_test_support.h"

namespace rwkv {
namespace {

using namespace test;

// A library of products that notes which shapes it measures, and on which rank.
struct NotedChoices {
  int rank = 0;
  int measured = 0;  // matrix products while it was to measure
  bool measuring = false;
  std::map<std::string, int> table;  // shape -> rank that has chosen
  std::string refusal;

  void choose(const std::string& shape) { table.try_emplace(shape, rank); }
  std::string write() const {
    std::string text;
    for (const auto& [shape, by] : table) text += shape + " " + std::to_string(by) + "\n";
    return text;
  }
  std::string read(const std::string& text) {
    if (!refusal.empty()) return refusal;
    std::istringstream lines(text);
    std::string shape;
    for (int by = 0; lines >> shape >> by;) table.insert_or_assign(shape, by);
    return "";
  }
};
thread_local NotedChoices* noted = nullptr;  // of a rank

std::string shape_text(const Matmul& op) {
  return fmt::format("{}x{}x{}", op.c.shape[0], op.c.shape[1], op.a.shape[op.trans_a ? 0 : 1]);
}

const Backend& choosing_backend() {
  static constexpr ProductChoices choices{
      [](bool on) { noted->measuring = on; },
      [] { return noted->write(); },
      [](const std::string& text) { return noted->read(text); },
  };
  static const Backend table = [] {
    Backend t = cpu_backend();
    t.choices = &choices;
    t.matmul = [](const Stream& stream, const Matmul& op) {
      if (noted->measuring) {
        ++noted->measured;
        noted->choose(shape_text(op));
        zero(host_memory(), stream, op.c);  // what is measured computes nothing of use
      } else {
        cpu_backend().matmul(stream, op);
      }
    };
    return t;
  }();
  return table;
}

TEST(ProductChoices, AreMadeInAPassThatIsThrownAway) {
  const Recipe recipe = small_recipe({"precision=fp32", "parallel.reduction=fast"});
  for (const int ranks : {1, 2}) {
    run_local(ranks, [&](Communicator& comm) {
      NotedChoices own;
      noted = &own;
      Machine machine = one_thread(recipe);
      Trainer plain(recipe, machine, comm);
      machine.ops = &choosing_backend();
      Trainer trainer(recipe, machine, comm);
      int measured = 0;
      for (int64_t step = 0; step < 2; ++step) {
        StepRow row, wanted;
        trainer.train_step(step, row);
        plain.train_step(step, wanted);
        EXPECT_EQ(row.loss, wanted.loss);
        if (step == 0) measured = own.measured;
      }
      EXPECT_GT(measured, 0);
      EXPECT_EQ(own.measured, measured);
      EXPECT_EQ(trainer.product_choices(), own.write());
      EXPECT_EQ(trainer.store().hash(), plain.store().hash());
    });
  }
}

// What a step has chosen on each rank; `before`: what a checkpoint says.
std::vector<std::map<std::string, int>> chosen(const Recipe& recipe, const std::string& before,
                                               int ranks = 2,
                                               const std::map<std::string, int>& of_rank_1 = {},
                                               const std::map<std::string, int>& of_rank_2 = {}) {
  std::vector<std::map<std::string, int>> tables(static_cast<size_t>(ranks));
  run_local(ranks, [&](Communicator& comm) {
    NotedChoices own;
    own.rank = comm.rank();
    if (own.rank > 0) own.table = own.rank == 1 ? of_rank_1 : of_rank_2;
    noted = &own;
    Machine machine = one_thread(recipe);
    machine.ops = &choosing_backend();
    Trainer trainer(recipe, machine, comm);
    if (!before.empty()) {
      EXPECT_EQ(trainer.take_product_choices(before), "");
    }
    StepRow row;
    trainer.train_step(0, row);
    tables[static_cast<size_t>(comm.rank())] = own.table;
  });
  return tables;
}

// Five sequences over two ranks: two on the one, three on the other, which make other shapes.
TEST(ProductChoices, AreSharedByRanksOfUnevenShares) {
  const auto tables = chosen(
      small_recipe({"precision=fp32", "parallel.reduction=fast", "train.micro_batch=3"}), "");
  EXPECT_EQ(tables[0], tables[1]);
  std::set<int> ranks;
  for (const auto& [shape, rank] : tables[0]) ranks.insert(rank);
  EXPECT_EQ(ranks, (std::set<int>{0, 1}));
}

// Each of two ranks knows a shape that the others have not met, and both one: two rounds.
TEST(ProductChoices, OfEveryRankReachAllAndTheLowestRankWins) {
  const Recipe recipe =
      small_recipe({"precision=fp32", "parallel.reduction=fast", "train.micro_batch=1"});
  const auto tables = chosen(recipe, "", 3, {{"a", 1}, {"both", 1}}, {{"b", 2}, {"both", 2}});
  EXPECT_EQ(tables[0], tables[1]);
  EXPECT_EQ(tables[0], tables[2]);
  EXPECT_EQ(tables[0].at("a"), 1);
  EXPECT_EQ(tables[0].at("b"), 2);
  EXPECT_EQ(tables[0].at("both"), 1);
}

TEST(ProductChoices, UnderExactSumsNothingIsMeasured) {
  const Recipe recipe = small_recipe({"precision=fp32", "parallel.reduction=exact"});
  for (const auto& table : chosen(recipe, "")) EXPECT_TRUE(table.empty());
}

TEST(ProductChoices, OfACheckpointHoldAndWhatTheyLackIsMeasured) {
  const Recipe recipe =
      small_recipe({"precision=fp32", "parallel.reduction=fast", "train.micro_batch=3"});
  const std::map<std::string, int> all = chosen(recipe, "")[0];
  const std::string known = all.begin()->first;
  const auto tables = chosen(recipe, known + " 7\n" + "1x1x1 7\n");
  EXPECT_EQ(tables[0], tables[1]);
  EXPECT_EQ(tables[0].size(), all.size() + 1);
  for (const auto& [shape, rank] : tables[0]) {
    EXPECT_EQ(rank == 7, shape == known || shape == "1x1x1") << shape;
  }
}

TEST(ProductChoices, ARankThatCannotUseThoseOfACheckpointSaysSo) {
  const Recipe recipe = small_recipe({"precision=fp32", "parallel.reduction=fast"});
  run_local(2, [&](Communicator& comm) {
    NotedChoices own;
    noted = &own;
    Machine machine = one_thread(recipe);
    machine.ops = &choosing_backend();
    Trainer trainer(recipe, machine, comm);
    if (comm.rank() == 1) own.refusal = "another GPU";
    EXPECT_EQ(trainer.take_product_choices("8x8x8 7\n"),
              comm.rank() == 1 ? "another GPU" : "another rank cannot use them");
    StepRow row;
    trainer.train_step(0, row);  // ends, though this rank's table stays its own
    EXPECT_EQ(own.table.contains("8x8x8"), comm.rank() == 0);
  });
}

}  // namespace
}  // namespace rwkv
