// Small trainers and models for the tests of core/train.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/config/load.h"
#include "core/train/run_folder.h"
#include "core/train/trainer.h"
#include "tests/support/tensors.h"

namespace rwkv::test {

// Two layers, five sequences of 24 tokens; overrides as on the command line.
inline Recipe small_recipe(const std::vector<std::string>& overrides = {}) {
  return parse_recipe(R"(model: {layers: 2, width: 32, head_size: 16}
data: {source: reverse}
train: {context: 24, batch: 5, steps: 10}
optimizer: {lr: 2e-3, warmup: 2}
precision: fp64
)",
                      "small.yaml", overrides);
}

inline Machine one_thread(const Recipe& recipe) {
  Machine machine = choose_machine(recipe, {});
  machine.threads = 1;
  return machine;
}

// Of a job of one rank.
inline ResumePoint find_resume_point(const Recipe& recipe) {
  return find_resume_point(recipe, *make_self());
}

// Every parameter random: as initialised, blocks add nothing to the stream.
inline void randomize(ParamStore& store, double scale = 0.15) {
  for (size_t i = 0; i < store.size(); ++i) {
    const ParamSpec& spec = store.specs()[i];
    std::vector<double> values = normals(spec.name, spec.shape.elements(), scale);
    if (spec.name.ends_with("weight") && spec.shape.rank == 1) {
      for (double& x : values) x += 1;
    }
    assign(store.master(i), values);
  }
}

// What is read as sample n is n * 1000 + position; target t of a sample weighs 1 where t is even.
class CountingSource final : public SampleSource {
 public:
  explicit CountingSource(int64_t size, int64_t vocab = int64_t{1} << 30)
      : size_(size), vocab_(vocab), reads_(static_cast<size_t>(size)) {}
  int64_t size() const override { return size_; }
  double read(int64_t index, const SampleView& view) const override {
    ++reads_[static_cast<size_t>(index)];
    for (size_t t = 0; t < view.tokens.size(); ++t) {
      view.tokens[t] = static_cast<int32_t>((index * 1000 + static_cast<int64_t>(t)) % vocab_);
    }
    for (size_t t = 0; t < view.weight.size(); ++t) {
      view.weight[t] = t % 2 == 0 ? 1.0f : 0.0f;
      view.question[t] = t < 2 ? 0 : t == 2 ? 1 : kUngraded;
      view.skill[t] = t < 2 ? 0 : 1;
    }
    return 0.5 + static_cast<double>(index);
  }
  std::vector<std::string> skills() const override { return {"two", "one"}; }
  std::vector<double> chance() const override { return {0, 0}; }
  std::string describe() const override { return "counting"; }
  const std::vector<int>& reads() const { return reads_; }

 private:
  int64_t size_, vocab_;
  mutable std::vector<int> reads_;
};

}  // namespace rwkv::test
