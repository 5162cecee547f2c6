// Two runs of two ranks, each with the checkpoints 2 and 4, in a fresh folder for each test.
#pragma once

#include <fstream>
#include <string>

#include "core/config/load.h"
#include "core/io/checkpoint.h"
#include "core/plan/param_table.h"
#include "core/train/run_folder.h"
#include "tests/core/io/io_fixture.h"

namespace rwkv {

namespace fs = std::filesystem;

inline constexpr Precision kCheckpointPrecision{DType::kF32, DType::kF32};

inline std::string recipe_text(const std::string& run) {
  return "run: {dir: " + run + R"(}
model: {layers: 1, width: 16, head_size: 16, vocab: 64, lora_rank: {decay: 8, iclr: 8, gate: 8}}
data: {source: reverse}
train: {context: 24, batch: 2, steps: 10}
precision: fp32
)";
}

inline Recipe recipe_of(const std::string& run) {
  return parse_recipe(recipe_text(run), "small.yaml", {});
}

inline ParamStore make_store(const Recipe& recipe) {
  return {param_table(resolve_model(recipe.model, 64)), kCheckpointPrecision, true};
}

inline void fill(ParamStore& store, double value) {
  for (size_t i = 0; i < store.size(); ++i) {
    for (const Tensor& t : {store.master(i), store.moment1(i), store.moment2(i)}) {
      for (int64_t e = 0; e < t.elements(); ++e) {
        t.as<float>()[e] = static_cast<float>(value + 1e-3 * static_cast<double>(e));
      }
    }
  }
}

inline void save(const std::string& run, const std::string& run_id, int64_t step,
                 int64_t keep = 0) {
  const Recipe recipe = recipe_of(run);
  run_local(2, [&](Communicator& ranks) {
    ParamStore store = make_store(recipe);
    fill(store, static_cast<double>(step) + static_cast<double>(run_id[0]));
    save_checkpoint(run + "/checkpoints",
                    {.step = step,
                     .tokens = 48 * step,
                     .recipe = to_yaml(recipe),
                     .numerics = "n",
                     .run_id = run_id},
                    store, keep, ranks);
  });
}

inline void overwrite(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

class TwoRuns : public IoTest {
 protected:
  void SetUp() override {
    IoTest::SetUp();
    for (const char* id : {"a", "b"}) {
      for (int64_t step : {2, 4}) save(in(id), id, step);
    }
  }
  std::string step(int64_t n, const std::string& run = "a") const {
    return in(run + "/checkpoints/step-" + std::to_string(n));
  }
  ResumePoint resume(const std::string& run = "a") const {
    return find_resume_point(recipe_of(in(run)), *make_self());
  }
};

}  // namespace rwkv
