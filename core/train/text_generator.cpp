#include "core/train/text_generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/rng.h"

namespace rwkv {
namespace {

constexpr int64_t kPromptPiece = 512;  // tokens of a prompt a pass

std::vector<double> logits_as_double(const Tensor& logits) {
  std::vector<double> out(static_cast<size_t>(logits.elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = logits.dtype == DType::kF64 ? logits.as<double>()[i]
                                         : static_cast<double>(logits.as<float>()[i]);
  }
  return out;
}

// One sequence fed in pieces of any length, so that its state is never folded; a workspace for each
// length that occurs.
class Feed {
 public:
  Feed(const Pass& pass, const Model& model, const ParamStore& store, Precision precision)
      : pass_{pass.stream, pass.ops},
        model_(model),
        store_(store),
        precision_(precision),
        step_(make(1)) {
    const Shape one_row{1, model.config().vocab};
    buffer_ = Buffer(one_row.elements() * bytes_of(precision.accumulate));
    logits_ = {buffer_.data(), precision.accumulate, one_row};
    model_.reset(*step_);
  }

  // Runs the tokens and leaves the last one's logits.
  void run(std::span<const int32_t> tokens) {
    while (static_cast<int64_t>(tokens.size()) > kPromptPiece) {
      piece(tokens.first(kPromptPiece));
      tokens = tokens.subspan(kPromptPiece);
    }
    if (tokens.size() > 1) piece(tokens);
    if (tokens.size() == 1) run_on(*step_, tokens);
  }
  Tensor logits() const { return logits_; }

 private:
  std::unique_ptr<Workspace> make(int64_t tokens) const {
    return std::make_unique<Workspace>(
        model_, ModelPlan{precision_, 1, tokens, pass_.stream.threads, false, false});
  }
  void piece(std::span<const int32_t> tokens) {
    const auto ws = make(static_cast<int64_t>(tokens.size()));
    copy_states(*step_, *ws);
    run_on(*ws, tokens);
    copy_states(*ws, *step_);
  }
  void run_on(Workspace& ws, std::span<const int32_t> tokens) {
    const auto count = static_cast<int64_t>(tokens.size());
    model_.forward(pass_, store_, ws, view_of(tokens.data(), {1, count}));
    model_.carry_on(ws);
    model_.last_logits(pass_, store_, ws, logits_);
  }
  static void copy_states(const Workspace& from, Workspace& to) {
    for (size_t l = 0; l < from.entering.size(); ++l) {
      for (size_t i = 0; i < from.entering[l].size(); ++i) {
        const Tensor& source = from.entering[l][i];
        std::copy_n(source.data, source.bytes(), to.entering[l][i].data);
      }
    }
  }

  Pass pass_;
  const Model& model_;
  const ParamStore& store_;
  Precision precision_;
  std::unique_ptr<Workspace> step_;
  Buffer buffer_;
  Tensor logits_;
};

}  // namespace

int32_t pick_token(const std::vector<double>& logits, double temperature, double top_p,
                   double random) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  if (temperature <= 0) return order.front();
  const double largest = logits[static_cast<size_t>(order.front())];
  std::vector<double> probability;
  double total = 0;
  for (int32_t token : order) {
    probability.push_back(std::exp((logits[static_cast<size_t>(token)] - largest) / temperature));
    total += probability.back();
  }
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < top_p * total)) kept += probability[count++];
  double target = random * kept;
  for (size_t i = 0; i < count; ++i) {
    target -= probability[i];
    if (target < 0) return order[i];
  }
  return order[count - 1];
}

std::vector<double> logits_after(const Pass& pass, const Model& model, const ParamStore& store,
                                 Precision precision, std::span<const int32_t> tokens) {
  require(!tokens.empty(), "logits need a token before them");
  Feed feed(pass, model, store, precision);
  feed.run(tokens);
  return logits_as_double(feed.logits());
}

std::string generate_text(const Pass& pass, const Model& model, const ParamStore& store,
                          Precision precision, const Tokenizer& tokenizer, std::string_view prompt,
                          const SamplingOptions& options) {
  std::vector<int32_t> tokens = tokenizer.encode(prompt);
  if (options.begin_with_end_token || tokens.empty()) tokens.insert(tokens.begin(), kEndToken);
  for (int32_t token : tokens) {
    if (token >= model.config().vocab) {
      throw InputError("the prompt has token " + std::to_string(token) +
                       ", but the model's vocabulary ends at " +
                       std::to_string(model.config().vocab - 1));
    }
  }
  Feed feed(pass, model, store, precision);
  feed.run(tokens);
  const Philox random(options.seed, "generate");
  std::vector<int32_t> out;
  for (int64_t i = 0; i < options.tokens; ++i) {
    const int32_t token = pick_token(logits_as_double(feed.logits()), options.temperature,
                                     options.top_p, random.uniform(static_cast<uint64_t>(i)));
    if (token == kEndToken) break;
    out.push_back(token);
    feed.run(std::span(&out.back(), 1));
  }
  return tokenizer.decode(out);
}

}  // namespace rwkv
