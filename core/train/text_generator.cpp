#include "core/train/text_generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/rng.h"
#include "core/model/sequence_runner.h"
#include "parallel/device_ranks.h"

namespace rwkv {
namespace {

constexpr int64_t kPromptSegment = 4096;  // tokens of a prompt that a rank has in a pass

std::vector<double> logits_as_double(const ConstTensor& logits) {
  std::vector<double> out(static_cast<size_t>(logits.elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = logits.dtype == DType::kF64 ? logits.as<double>()[i]
                                         : static_cast<double>(logits.as<float>()[i]);
  }
  return out;
}

// One sequence: the prompt in segments over the ranks, then token by token on each of them, where
// the state is never folded.
class Feed {
 public:
  Feed(const Pass& pass, const Model& model, const ParamStore& store, Precision precision)
      : pass_(pass), model_(model), store_(store), step_(model, plan_of_step(pass, precision)) {
    const Shape one_row{1, model.config().vocab};
    buffer_ = Buffer(one_row.elements() * bytes_of(precision.accumulate), memory());
    token_ = Buffer(4, memory());
    logits_ = {buffer_.data(), precision.accumulate, one_row};
    model_.reset(step_);
  }

  // The sequence's first tokens; collective over the ranks.
  void prompt(std::span<const int32_t> tokens, Communicator& ranks);
  void step(int32_t token) {
    const Pass unfolded{pass_.stream, pass_.ops};
    const Tensor where{token_.data(), DType::kI32, {1, 1}};
    copy(memory(), pass_.stream, where, view_of(&token, {1, 1}));
    model_.forward(unfolded, store_, step_, where);
    model_.carry_on(step_);
    model_.last_logits(unfolded, store_, step_, logits_);
  }
  // Behind the last token, on every rank; on the host.
  ConstTensor logits() { return on_host(memory(), pass_.stream, logits_, room_); }

 private:
  static ModelPlan plan_of_step(const Pass& pass, Precision precision) {
    ModelPlan plan{precision, 1, 1, pass.stream.threads, false, false};
    plan.memory = pass.ops.memory;
    return plan;
  }
  const Memory& memory() const { return *pass_.ops.memory; }
  void share(const Tensor&, int owner, Communicator& ranks);
  SequencePlan plan(int64_t tokens, int ranks) const {
    const int64_t leaf = std::max<int64_t>(1, pass_.leaf);
    const int64_t share = std::min((tokens + ranks - 1) / ranks, kPromptSegment);
    SequencePlan plan;
    plan.model = step_.plan();
    plan.model.tokens = tokens;
    plan.model.leaf = pass_.leaf;
    plan.model.tile = pass_.tile;
    plan.segments = plan_segments(tokens, ranks, (share + leaf - 1) / leaf * leaf, 0, pass_.leaf);
    plan.leaves = true;
    return plan;
  }

  Pass pass_;
  const Model& model_;
  const ParamStore& store_;
  Workspace step_;
  Buffer buffer_, token_, room_;
  Tensor logits_;
};

// The owner's tensor on every rank, by way of the host.
void Feed::share(const Tensor& t, int owner, Communicator& ranks) {
  if (ranks.size() == 1) return;
  Stream stream = pass_.stream;
  if (memory().host) return ranks.broadcast(t, owner, stream)->wait();
  Buffer room(t.bytes());
  const Tensor there{room.data(), t.dtype, t.shape};
  copy(memory(), stream, there, t);
  ranks.broadcast(there, owner, stream)->wait();
  copy(memory(), stream, t, there);
}

void Feed::prompt(std::span<const int32_t> tokens, Communicator& ranks) {
  const auto count = static_cast<int64_t>(tokens.size());
  DeviceRanks device_ranks(ranks, memory());
  SequenceRunner runner(model_, plan(count, ranks.size()), device_ranks.get(), pass_.ops);
  Batch batch;
  batch.tokens = view_of(tokens.data(), {1, count});
  runner.forward(pass_, store_, batch, {});
  device_ranks.get().settle();
  const SegmentPlan& segments = runner.plan().segments;
  const int owner = segments.segment(segments.segments() - 1).owner;
  const bool own = owner == ranks.rank();
  if (own) runner.last_logits(pass_, store_, logits_);
  share(logits_, owner, ranks);
  for (size_t l = 0; l < model_.layers(); ++l) {
    for (size_t i = 0; i < step_.entering[l].size(); ++i) {
      const Tensor& to = step_.entering[l][i];
      if (own) copy(memory(), pass_.stream, to, runner.leaving()[l][i]);
      share(to, owner, ranks);
    }
  }
}

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
                                 Precision precision, std::span<const int32_t> tokens,
                                 Communicator& ranks) {
  require(!tokens.empty(), "logits need a token before them");
  Feed feed(pass, model, store, precision);
  feed.prompt(tokens, ranks);
  return logits_as_double(feed.logits());
}

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view prompt,
                                   bool begin_with_end_token, int64_t vocab) {
  std::vector<int32_t> tokens = tokenizer.encode(prompt);
  if (begin_with_end_token || tokens.empty()) tokens.insert(tokens.begin(), kEndToken);
  for (int32_t token : tokens) {
    if (token >= vocab) {
      throw InputError("the prompt has token " + std::to_string(token) +
                       ", but the model's vocabulary ends at " + std::to_string(vocab - 1));
    }
  }
  return tokens;
}

std::string generate_text(const Pass& pass, const Model& model, const ParamStore& store,
                          Precision precision, const Tokenizer& tokenizer,
                          std::span<const int32_t> prompt, const SamplingOptions& options,
                          Communicator& ranks) {
  Feed feed(pass, model, store, precision);
  feed.prompt(prompt, ranks);
  if (ranks.rank() != 0) return "";
  const Philox random(options.seed, "generate");
  std::vector<int32_t> out;
  for (int64_t i = 0; i < options.tokens; ++i) {
    const int32_t token = pick_token(logits_as_double(feed.logits()), options.temperature,
                                     options.top_p, random.uniform(static_cast<uint64_t>(i)));
    if (token == kEndToken) break;
    out.push_back(token);
    feed.step(token);
  }
  return tokenizer.decode(out);
}

}  // namespace rwkv
