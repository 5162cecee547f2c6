// Training steps of a model of any size on synthetic weights and tokens: tokens a second, MFU, and
// where the time goes, op by op, beside each op's roofline.
//   train_step [layers=12 width=768 vocab=65536 context=4096 batch=4 micro=0 steps=4 device=auto
//               precision=bf16 recompute=none profile=1 peak=989 bandwidth=3350]
// MFU = 6 P tokens/s / peak, P: elements of all matrices but the embedding; peak in TFLOP/s (989:
// the dense bf16 rate of H100 and H200), bandwidth in GB/s (3350: of an H100; an H200 has 4800).
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <vector>

#include "bench/op_profile.h"
#include "core/base/rng.h"
#include "core/config/load.h"
#include "core/train/optimizer.h"
#include "core/train/trainer.h"

namespace rwkv::bench {
namespace {

struct Options {
  std::map<std::string, std::string> given = {
      {"layers", "12"},     {"width", "768"}, {"vocab", "65536"},    {"context", "4096"},
      {"batch", "4"},       {"micro", "0"},   {"steps", "4"},        {"device", "auto"},
      {"profile", "1"},     {"peak", "989"},  {"precision", "bf16"}, {"recompute", "none"},
      {"bandwidth", "3350"}};

  Options(int count, char** arguments) {
    for (int i = 1; i < count; ++i) {
      const std::string text = arguments[i];
      const size_t equals = text.find('=');
      if (equals == std::string::npos || !given.contains(text.substr(0, equals))) {
        throw InputError("unknown option " + text);
      }
      given[text.substr(0, equals)] = text.substr(equals + 1);
    }
  }
  int64_t number(const std::string& key) const { return std::stoll(given.at(key)); }
  Recipe recipe() const {
    const std::string micro = given.at("micro") == "0" ? given.at("batch") : given.at("micro");
    return parse_recipe(
        fmt::format("model: {{layers: {}, width: {}, vocab: {}}}\ndata: {{source: skills}}\n"
                    "train: {{context: {}, batch: {}, micro_batch: {}, recompute: {}, steps: 1}}\n"
                    "parallel: {{device: {}, reduction: fast}}\nprecision: {}\n",
                    given.at("layers"), given.at("width"), given.at("vocab"), given.at("context"),
                    given.at("batch"), micro, given.at("recompute"), given.at("device"),
                    given.at("precision")),
        "bench", {});
  }
};

// Cheap random values of the size that initialisation gives; the orthogonal ones take minutes.
void fill_weights(ParamStore& store) {
  uint64_t state = 1;
  for (size_t i = 0; i < store.size(); ++i) {
    const ParamSpec& spec = store.specs()[i];
    std::vector<float> values(static_cast<size_t>(spec.shape.elements()));
    const bool matrix = spec.shape.rank == 2 && spec.shape[0] > 1 && spec.shape[1] > 1;
    const bool norm = spec.name.find("ln") != std::string::npos && spec.name.ends_with("weight");
    const float scale = matrix ? 0.5f / std::sqrt(static_cast<float>(spec.shape[1])) : 0.1f;
    for (float& x : values) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      x = scale * (static_cast<float>(state >> 40) / 8388608.0f - 1.0f) + (norm ? 1.0f : 0.0f);
    }
    copy(store.memory(), {}, store.master(i), view_of(values.data(), spec.shape));
  }
}

class Steps {
 public:
  explicit Steps(const Options& options)
      : recipe_(options.recipe()),
        machine_(choose_machine(recipe_, {})),
        model_(complete_model(recipe_)),
        store_(model_.params(), machine_.precision, true, false, {}, *machine_.ops->memory),
        self_(make_self(*machine_.ops->memory)),
        optimizer_(recipe_.optimizer, store_) {
    const SequencePlan plan = plan_sequence(recipe_, machine_, plan_mesh(recipe_, 1, machine_.leaf),
                                            recipe_.train.micro_batch);
    runner_ = std::make_unique<SequenceRunner>(model_, plan, *self_, *machine_.ops);
    fill_weights(store_);
    store_.refresh(*machine_.ops, machine_.stream());
    const Philox random(1, "bench");
    const auto vocab = static_cast<uint64_t>(model_.config().vocab);
    for (int64_t i = 0; i < micro_tokens(); ++i) {
      tokens_.push_back(static_cast<int32_t>(random.below(vocab, static_cast<uint64_t>(i))));
    }
    weight_.assign(tokens_.size(), 1.0f);
    choose_products();
  }

  double step(const Backend& ops, int64_t number) {
    const auto start = std::chrono::steady_clock::now();
    const Pass pass{machine_.stream(), ops};
    store_.zero_gradients(pass.stream);
    const Shape shape{recipe_.train.micro_batch, recipe_.train.context};
    const ConstTensor tokens = view_of(tokens_.data(), shape);
    const Batch batch{tokens, tokens, view_of(weight_.data(), shape)};
    double loss = 0;
    const auto visit = [&](const SequenceRunner::Result& result) {
      for (int64_t i = 0; i < result.loss.elements(); ++i) {
        loss += static_cast<double>(result.loss.as<float>()[i]);
      }
    };
    for (int64_t done = 0; done < recipe_.train.batch; done += recipe_.train.micro_batch) {
      runner_->forward_backward(pass, store_, batch, 1e-4, visit);
    }
    const double scale = 1.0 / static_cast<double>(tokens_a_step());
    norm_ = optimizer_.norm(pass, scale);
    optimizer_.step(pass, 1e-4, number + 1, norm_, scale);
    machine_.ops->memory->wait(pass.stream);
    loss_ = loss * scale;
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    return taken.count();
  }

  const Backend& ops() const { return *machine_.ops; }
  int64_t micro_tokens() const { return recipe_.train.micro_batch * recipe_.train.context; }
  int64_t tokens_a_step() const { return recipe_.train.batch * recipe_.train.context; }
  double loss() const { return loss_; }
  double norm() const { return norm_; }
  double matrix_elements() const {
    double sum = 0;
    for (const ParamSpec& spec : store_.specs()) {
      const bool matrix = spec.shape.rank == 2 && spec.product;
      if (matrix) sum += static_cast<double>(spec.shape.elements());
    }
    return sum;
  }
  int64_t planned() const {
    int64_t bytes = 0;
    for (const auto& entry : store_.plan()) bytes += entry.bytes;
    for (const auto& entry : runner_->entries()) bytes += entry.bytes;
    return bytes;
  }

 private:
  // As the trainer does: in a pass that is thrown away.
  void choose_products() {
    if (machine_.ops->choices == nullptr) return;
    const Shape shape{recipe_.train.micro_batch, recipe_.train.context};
    const ConstTensor tokens = view_of(tokens_.data(), shape);
    machine_.ops->choices->measure(true);
    runner_->forward_backward({machine_.stream(), *machine_.ops}, store_,
                              {tokens, tokens, view_of(weight_.data(), shape)}, 1e-4,
                              [](const SequenceRunner::Result&) {});
    machine_.ops->choices->measure(false);
  }

  Recipe recipe_;
  Machine machine_;
  Model model_;
  ParamStore store_;
  std::unique_ptr<Communicator> self_;
  Optimizer optimizer_;
  std::unique_ptr<SequenceRunner> runner_;
  std::vector<int32_t> tokens_;
  std::vector<float> weight_;
  double loss_ = 0, norm_ = 0;
};

void print_profile(const OpProfile& profile) {
  std::vector<std::pair<std::string, OpTime>> rows(profile.times().begin(), profile.times().end());
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double total = 0, roof = 0;
  for (const auto& [name, time] : rows) {
    total += time.seconds;
    roof += time.roof;
  }
  fmt::print("  share         time    roofline  calls\n");
  for (const auto& [name, time] : rows) {
    if (time.seconds < 0.003 * total) continue;
    fmt::print("  {:5.1f}%  {:9.3f} ms  {:5.1f}% {:5} x  {}\n", 100 * time.seconds / total,
               1e3 * time.seconds, 100 * time.roof / time.seconds, time.calls, name);
  }
  fmt::print("  {:.3f} ms in ops, {:.3f} ms by their rooflines ({:.1f}%)\n", 1e3 * total,
             1e3 * roof, 100 * roof / total);
}

void run(const Options& options) {
  Steps steps(options);
  fmt::print(
      "{} layers, width {}, context {}, {} tokens a step, {} a pass, {} · {:.2f} GiB planned\n",
      options.given.at("layers"), options.given.at("width"), options.given.at("context"),
      steps.tokens_a_step(), steps.micro_tokens(), steps.ops().name,
      static_cast<double>(steps.planned()) / (1 << 30));
  std::vector<double> taken;
  for (int64_t i = 0; i < options.number("steps"); ++i) {
    taken.push_back(steps.step(steps.ops(), i));
    fmt::print("  step {}: {:.4f} s, loss {:.9g}, gradient norm {:.9g}\n", i + 1, taken.back(),
               steps.loss(), steps.norm());
  }
  const double best = *std::min_element(taken.begin(), taken.end());
  const double rate = static_cast<double>(steps.tokens_a_step()) / best;
  const double peak = 1e12 * static_cast<double>(options.number("peak"));
  fmt::print("best: {:.0f} tokens/s, MFU {:.2f}% (6 P tokens/s / {} TFLOP/s, P = {:.4g})\n", rate,
             100 * 6 * steps.matrix_elements() * rate / peak, options.given.at("peak"),
             steps.matrix_elements());
  if (options.given.at("profile") == "0") return;
  OpProfile profile(steps.ops(), {peak, 1e9 * static_cast<double>(options.number("bandwidth"))});
  steps.step(profile.ops(), options.number("steps"));
  print_profile(profile);
}

}  // namespace
}  // namespace rwkv::bench

int main(int count, char** arguments) {
  try {
    rwkv::bench::run(rwkv::bench::Options(count, arguments));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
