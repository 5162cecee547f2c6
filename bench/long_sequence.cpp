// One pass over one long sequence in bounded memory, forward and backward, and the proof that its
// gradient is that of the whole: the derivative of the loss by the state that enters the sequence,
// against the difference of two losses; the directions chosen do not decay.
//   long_sequence TOKENS [chunk=4096] [stash=all|sqrt] [precision=fp32|bf16|fp64] [difference=EPS]
// Prints one JSON object. Model: 2 layers of width 64; the text is data.source skills.
#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/config/load.h"
#include "core/train/evaluator.h"
#include "core/train/trainer.h"

namespace rwkv {
namespace {

constexpr int64_t kLayers = 2, kWidth = 64, kVocab = 257;

struct Options {
  int64_t tokens = 65536, chunk = 4096;
  std::string stash = "all", precision = "fp32";
  double difference = 0;  // half the distance of the two states; 0: no difference is taken
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t at = word.find('=');
    const std::string key = word.substr(0, at), value = word.substr(at + 1);
    if (at == std::string::npos) {
      options.tokens = std::stoll(word);
    } else if (key == "chunk") {
      options.chunk = std::stoll(value);
    } else if (key == "stash") {
      options.stash = value;
    } else if (key == "precision") {
      options.precision = value;
    } else if (key == "difference") {
      options.difference = std::stod(value);
    } else {
      throw InputError("unknown option " + word);
    }
  }
  return options;
}

double get(const ConstTensor& t, int64_t i) {
  return t.dtype == DType::kF64 ? t.as<double>()[i] : static_cast<double>(t.as<float>()[i]);
}

void set(const Tensor& t, int64_t i, double value) {
  if (t.dtype == DType::kF64) {
    t.as<double>()[i] = value;
  } else {
    t.as<float>()[i] = static_cast<float>(value);
  }
}

double mebibytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// The weights of the official start, but blocks add to the stream, and states forget so slowly that
// what entered the sequence is there at its end, and erase nothing.
void set_weights(ParamStore& store, double decay) {
  for (size_t i = 0; i < store.size(); ++i) {
    const ParamSpec& spec = store.specs()[i];
    const Tensor master = store.master(i);
    initialize(spec, 1, master);
    const bool forgets = spec.name.ends_with("att.w0"), erases = spec.name.ends_with("att.a0");
    // Blocks must add something to the stream for the state to matter.
    const bool adds =
        spec.name.ends_with("att.output.weight") || spec.name.ends_with("ffn.value.weight");
    const Philox random(3, spec.name);
    for (int64_t j = 0; j < spec.shape.elements(); ++j) {
      if (forgets) set(master, j, decay);
      if (erases) set(master, j, -30);
      if (adds) set(master, j, 0.1 * random.normal(static_cast<uint64_t>(j)));
    }
  }
}

class LongSequence {
 public:
  explicit LongSequence(const Options& options)
      : options_(options),
        recipe_(parse_recipe(fmt::format("model: {{layers: {}, width: {}}}\n"
                                         "data: {{source: skills}}\n"
                                         "train: {{context: {}, chunk: {}, batch: 1, steps: 1}}\n",
                                         kLayers, kWidth, options.tokens, options.chunk),
                             "long.yaml", std::vector{"precision=" + options.precision})),
        machine_(choose_machine(recipe_, {})),
        self_(make_self()),
        source_(make_train_source(recipe_, kVocab)),
        loader_(*source_, 1, options.tokens),
        model_(complete_model(recipe_)),
        store_(model_.params(), machine_.precision, true, true) {
    SequencePlan plan = plan_sequence(recipe_, machine_, plan_mesh(recipe_, 1, machine_.leaf), 1);
    plan.stash = options.stash;
    plan.enters = true;
    // A memory of half the sequence: e^-0.5 sigmoid(w0) is the decay a token.
    set_weights(store_, std::log(2 / (0.6 * static_cast<double>(options.tokens))));
    runner_ = std::make_unique<SequenceRunner>(model_, plan, *self_, *machine_.ops);
    store_.refresh(*machine_.ops, pass().stream);
    Totals totals(0);
    loader_.load({0}, totals);
    set_state(0);
  }

  void run() {
    const auto start = std::chrono::steady_clock::now();
    const double before = mebibytes();
    const double loss = gradient();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    const SequencePlan& plan = runner_->plan();
    int64_t planned = 0;
    for (const auto& entry : runner_->entries()) planned += entry.bytes;
    std::string line = fmt::format(
        R"({{"tokens": {}, "chunk": {}, "stash": "{}", "precision": "{}", "numerics": "{}", )"
        R"("threads": {}, "passes": {}, "groups": {}, "forward_passes": {}, "seconds": {:.1f}, )"
        R"("tokens_per_s": {:.0f}, "planned_mib": {:.1f}, "stash_mib": {:.1f}, )"
        R"("tokens_mib": {:.1f}, "before_mib": {:.1f}, "resident_mib": {:.1f}, "loss": {:.17g}, )"
        R"("gradient": "{:016x}")",
        options_.tokens, options_.chunk, options_.stash, machine_.precision_name, machine_.numerics,
        machine_.threads, passes_, plan.segments.groups(), plan.forward_passes(), taken.count(),
        passes_ * static_cast<double>(options_.tokens) / taken.count(),
        static_cast<double>(planned) / (1 << 20),
        static_cast<double>(runner_->stash_bytes()) / (1 << 20),
        static_cast<double>(options_.tokens) * 4 * 5 / (1 << 20), before, mebibytes(), loss,
        hash_of_gradient());
    if (options_.difference > 0) line += difference();
    std::cout << line << "}" << std::endl;
  }

 private:
  Pass pass() const { return {{machine_.threads}, *machine_.ops, machine_.leaf, machine_.tile}; }

  // S_0 + step * u, where u is a fixed direction of unit length over both layers' states.
  void set_state(double step) {
    for (size_t l = 0; l < model_.layers(); ++l) {
      const Tensor& state = runner_->entering()[l][1];
      const Philox random(5, "state");
      const double unit = 1 / std::sqrt(static_cast<double>(state.elements() * kLayers));
      for (int64_t i = 0; i < state.elements(); ++i) {
        const double start = random.normal(2 * static_cast<uint64_t>(i));
        const double u = unit * random.normal(2 * static_cast<uint64_t>(i) + 1);
        set(state, i, start + step * u);
      }
    }
  }
  double along_u(const SequenceRunner::States& gradient) const {
    double sum = 0;
    for (size_t l = 0; l < model_.layers(); ++l) {
      const Tensor& state = gradient[l][1];
      const Philox random(5, "state");
      const double unit = 1 / std::sqrt(static_cast<double>(state.elements() * kLayers));
      for (int64_t i = 0; i < state.elements(); ++i) {
        sum += unit * random.normal(2 * static_cast<uint64_t>(i) + 1) * get(state, i);
      }
    }
    return sum;
  }

  // The sum of all losses in double.
  static SequenceRunner::Visit add_to(double& sum) {
    return [&sum](const SequenceRunner::Result& result) {
      for (int64_t i = 0; i < result.loss.elements(); ++i) {
        sum += get(result.loss, i);
      }
    };
  }
  double loss_at(double step) {
    set_state(step);
    double sum = 0;
    runner_->forward(pass(), store_, loader_.batch(0, 1), add_to(sum));
    return sum;
  }
  // As a training step does it: again, when a term of an exact sum did not fit its scale.
  double gradient() {
    const int64_t leaves = (options_.tokens + machine_.leaf - 1) / machine_.leaf;
    std::vector<double> peaks(store_.size(), 1 << 14);
    for (bool fit = false; !fit;) {
      std::vector<double> scales(store_.size());
      const auto terms = [&](size_t i) { return i == 0 ? options_.tokens : leaves; };
      for (size_t i = 0; i < scales.size(); ++i) scales[i] = scale_for(peaks[i], terms(i));
      store_.set_scales(scales);
      store_.zero_gradients();
      loss_ = 0;
      ++passes_;
      runner_->forward_backward(pass(), store_, loader_.batch(0, 1), 0, add_to(loss_));
      fit = true;
      for (size_t i = 0; i < peaks.size(); ++i) {
        peaks[i] = magnitude_from_bits(store_.peaks().as<int64_t>()[i]);
        fit = fit && fits(peaks[i], scales[i], terms(i));
      }
    }
    return loss_;
  }
  uint64_t hash_of_gradient() const {
    const Tensor all = store_.all_gradients();
    return hash64({all.data, static_cast<size_t>(all.bytes())});
  }

  std::string difference() {
    const double want = along_u(runner_->dentering());
    const double eps = options_.difference;
    const double above = loss_at(eps), below = loss_at(-eps);
    const double got = (above - below) / (2 * eps);
    return fmt::format(
        R"(, "epsilon": {:g}, "difference": {:.9g}, "inner_product": {:.9g}, "relative": {:.2g})",
        eps, got, want, std::abs(got / want - 1));
  }

  Options options_;
  Recipe recipe_;
  Machine machine_;
  std::unique_ptr<Communicator> self_;
  std::unique_ptr<SampleSource> source_;
  BatchLoader loader_;
  Model model_;
  ParamStore store_;
  std::unique_ptr<SequenceRunner> runner_;
  double loss_ = 0;
  int passes_ = 0;  // until the scales of exact sums fit
};

}  // namespace
}  // namespace rwkv

int main(int argc, char** argv) {
  try {
    rwkv::LongSequence(rwkv::parse(argc, argv)).run();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
