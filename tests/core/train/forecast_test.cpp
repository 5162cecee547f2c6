// Steps forecast for meshes: what must hold for any machine.
#include "core/train/forecast.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/train/job.h"

namespace rwkv {
namespace {

constexpr double kForward = 1e-3, kHead = 1e-4, kBackward = 2e-3;

Calibration fast_links() {
  Calibration c;
  c.forward = kForward;
  c.head = kHead;
  c.backward = kBackward;
  c.update = 1e-9;
  c.link = {1e-9, 1e15};
  c.flops_per_token = 1e6;
  c.parameters = 1e5;
  return c;
}

ForecastInput input(int ranks, int64_t chunk, const char* exchange, const char* stash = "all") {
  ForecastInput in;
  in.plan.model = {{}, 1, 4096, 1};
  in.plan.segments = plan_segments(4096, ranks, chunk, 0, 0);
  in.plan.exchange.name = exchange;
  in.plan.stash = stash;
  in.layout = {4, 1, 64, 32, 1, DType::kF32};
  in.flops_per_token = 1e6;
  in.parameters = 1e5;
  return in;
}

double seconds(const ForecastInput& in, const Calibration& c) {
  return forecast_step(in, c).seconds;
}

TEST(Forecast, OneRankComputesForwardAndBackward) {
  const Forecast f = forecast_step(input(1, 0, "auto"), fast_links());
  EXPECT_NEAR(f.seconds, 4096 * (kForward + kBackward), 0.01);
  EXPECT_NEAR(f.waiting(), 0, 1e-9);
  EXPECT_EQ(f.gradients, 0);
}

TEST(Forecast, GroupsRunForwardAgain) {
  const Calibration c = fast_links();
  // All groups but the last one run forward twice; under sqrt those of all blocks but the last once
  // more.
  EXPECT_NEAR(seconds(input(1, 256, "ring"), c),
              4096 * (kForward + kBackward) + 15 * 256 * kForward, 0.01);
  EXPECT_NEAR(seconds(input(1, 256, "ring", "sqrt"), c),
              4096 * (kForward + kBackward) + 12 * 256 * kForward + 12 * 256 * kForward, 0.01);
}

TEST(Forecast, FreeMessagesScaleWithTheRanks) {
  const double one = seconds(input(1, 0, "auto"), fast_links());
  for (const char* exchange : {"gather", "ring", "two_level"}) {
    for (int ranks : {2, 4, 8, 64}) {
      ForecastInput in = input(ranks, 0, exchange);
      in.plan.exchange.node = 2;
      const double many = seconds(in, fast_links());
      EXPECT_NEAR(one / many / ranks, 1, 0.01) << exchange << " " << ranks;
    }
  }
}

TEST(Forecast, SlowMessagesCost) {
  Calibration c = fast_links();
  c.link.latency = 0.1;
  const Forecast ring = forecast_step(input(8, 0, "ring"), c);
  // Each way a chain over seven edges; later layers follow in its wake.
  EXPECT_NEAR(ring.waiting(), 2 * 7 * 0.1, 0.01);
  EXPECT_GT(ring.seconds, forecast_step(input(8, 0, "ring"), fast_links()).seconds + 1.39);
  c.link = {1e-9, 1e5};
  EXPECT_GT(forecast_step(input(8, 0, "gather"), c).waiting(),
            forecast_step(input(8, 0, "ring"), c).waiting());
}

TEST(Forecast, RanksBeyondTheCoresTakeTurns) {
  Recipe recipe;
  EXPECT_EQ(cores_a_rank(recipe, 2, 8), 0.25);
  EXPECT_EQ(cores_a_rank(recipe, 16, 2), 8);
  recipe.parallel.threads = 3;
  EXPECT_EQ(cores_a_rank(recipe, 16, 2), 3);
  const Calibration c = fast_links();
  ForecastInput in = input(8, 0, "ring");
  const double alone = seconds(in, c);
  in.cores_a_rank = 0.25;
  EXPECT_NEAR(seconds(in, c) / alone, 4, 0.05);
}

TEST(Forecast, CalibrationReadsBack) {
  Calibration c = fast_links();
  c.cores = 2;
  const Calibration back = parse_calibration(to_json(c), "cal.json");
  EXPECT_EQ(to_json(back), to_json(c));
  for (const char* text : {"", "[]", "{}", "{\"forward_seconds_per_token\": -1}"}) {
    try {
      parse_calibration(text, "cal.json");
      FAIL() << text;
    } catch (const InputError& error) {
      EXPECT_EQ(std::string(error.what()).find("cal.json: "), 0u);
    }
  }
}

}  // namespace
}  // namespace rwkv
