#include "tests/support/sequence_run.h"

#include <fmt/format.h>

#include <mutex>

namespace rwkv::test {
namespace {

constexpr int64_t kBatch = SequenceCase::kBatch;

// Tokens, targets, weights (some are zero) and starts of a case.
class CaseBatch {
 public:
  explicit CaseBatch(const SequenceCase& c)
      : tokens_({kBatch, c.tokens}),
        targets_({kBatch, c.tokens}),
        starts_({kBatch, c.tokens}),
        weight_({kBatch, c.tokens}),
        some_start_(!c.starts.empty()) {
    const Philox random(7, "sequence");
    for (int64_t i = 0; i < tokens_.size(); ++i) {
      const auto at = static_cast<uint64_t>(3 * i);
      const auto below = [&](int64_t n, uint64_t use) {
        return static_cast<int32_t>(random.below(static_cast<uint32_t>(n), at + use));
      };
      tokens_[i] = below(c.config.vocab, 0);
      targets_[i] = below(c.config.vocab, 1);
      weight_[i] = static_cast<float>(below(4, 2)) / 2;
    }
    for (const int64_t t : c.starts) {
      starts_[t] = 1;
      if (c.starts_in_both) starts_[c.tokens + t] = 1;
    }
  }
  Batch batch() {
    return {tokens_.view(), targets_.view(), weight_.view(),
            some_start_ ? ConstTensor(starts_.view()) : ConstTensor{}};
  }

 private:
  Owned<int32_t> tokens_, targets_, starts_;
  Owned<float> weight_;
  bool some_start_;
};

// Random parameters, slow decay among them: much of a state passes through a segment.
std::unique_ptr<ParamStore> random_store(const ModelRun& how, const Model& model) {
  auto store = std::make_unique<ParamStore>(model.params(), how.precision, true);
  for (size_t i = 0; i < store->size(); ++i) {
    const ParamSpec& spec = store->specs()[i];
    std::vector<double> values = normals(spec.name, spec.shape.elements(), 0.15);
    const bool gain = spec.name.ends_with("weight") && spec.shape.rank == 1;
    const bool decay = spec.name.ends_with("att.w0");
    for (double& x : values) x += gain ? 1 : decay ? -5 : 0;
    assign(store->master(i), values);
  }
  store->refresh(how.ops, {how.threads});
  store->zero_gradients();
  return store;
}

void enter(const Workspace::States& states) {
  for (size_t l = 0; l < states.size(); ++l) {
    for (size_t i = 0; i < states[l].size(); ++i) {
      const Tensor& t = states[l][i];
      assign(t, normals(fmt::format("entering {} {}", l, i), t.elements(), 0.3));
    }
  }
}

void add(SequenceResults& to, const std::string& name, const Tensor& t) {
  const std::vector<double> values = doubles(t);
  std::vector<double>& sum = to.tensors[name];
  sum.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) sum[i] += values[i];
}

void add(SequenceResults& to, const std::string& name, const Workspace::States& states) {
  for (size_t l = 0; l < states.size(); ++l) {
    for (size_t i = 0; i < states[l].size(); ++i) {
      add(to, fmt::format("{}/{}/{}", name, l, i), states[l][i]);
    }
  }
}

void add_gradients(SequenceResults& to, const ParamStore& store) {
  for (size_t i = 0; i < store.size(); ++i) add(to, store.specs()[i].name, store.grad(i));
}

double weighted(const ConstTensor& loss, const ConstTensor& weight) {
  const std::vector<double> values = doubles(loss), weights = doubles(weight);
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += weights[i] * values[i];
  return sum;
}

}  // namespace

int node_of(int ranks) {
  for (int node = 2; node < ranks; ++node) {
    if (ranks % node == 0) return node;
  }
  return ranks;
}

std::string to_string(const SequenceLayout& l) {
  return fmt::format("{} ranks, chunk {}, overlap {}, {}, stash {}, tile {}", l.ranks, l.chunk,
                     l.overlap, l.exchange, l.stash, l.tile);
}

SequenceResults run_whole(const ModelRun& how, const SequenceCase& c) {
  const Model model(c.config);
  const auto store = random_store(how, model);
  Workspace ws(model, {how.precision, kBatch, c.tokens, how.threads, true, how.recompute});
  model.reset(ws);
  if (c.enters) enter(ws.entering);
  CaseBatch data(c);
  const Batch batch = data.batch();
  Pass pass{{how.threads}, how.ops};
  pass.starts = batch.starts;
  model.forward_backward(pass, *store, ws, batch, how.l2wrap);
  SequenceResults out;
  out.loss = weighted(ws.loss, batch.weight);
  add_gradients(out, *store);
  if (c.enters) add(out, "entering", ws.dentering);
  add(out, "leaving", ws.leaving);
  return out;
}

SequenceResults run_in_segments(const ModelRun& how, const SequenceCase& c,
                                const SequenceLayout& layout) {
  SequenceResults out;
  std::mutex mutex;
  run_local(layout.ranks, [&](Communicator& ranks) {
    const Model model(c.config);
    const auto store = random_store(how, model);
    SequencePlan plan;
    plan.model = {how.precision, kBatch,        c.tokens, how.threads,
                  true,          how.recompute, 0,        layout.tile};
    plan.segments =
        plan_segments(c.tokens, layout.ranks, layout.chunk, layout.overlap, layout.tile);
    plan.handing = layout.handing;
    plan.exchange = {layout.exchange, layout.exchange == "two_level" ? node_of(layout.ranks) : 1};
    plan.stash = layout.stash;
    plan.enters = c.enters;
    plan.leaves = true;
    SequenceRunner runner(model, plan, ranks, how.ops);
    if (c.enters) enter(runner.entering());
    CaseBatch data(c);
    const Pass pass{{how.threads}, how.ops, 0, layout.tile};
    double loss = 0;
    runner.forward_backward(pass, *store, data.batch(), how.l2wrap,
                            [&](const SequenceRunner::Result& result) {
                              loss += weighted(result.loss, result.weight);
                            });
    const std::lock_guard lock(mutex);
    out.sent.resize(static_cast<size_t>(layout.ranks));
    out.planned.resize(out.sent.size());
    const auto rank = static_cast<size_t>(ranks.rank());
    out.sent[rank] = runner.sent_bytes();
    out.planned[rank] = plan_traffic(plan, exchange_layout(plan, c.config), ranks.rank()).bytes;
    out.loss += loss;
    add_gradients(out, *store);
    const bool last = ranks.rank() + 1 == ranks.size();
    if (last && c.enters && plan.handing.gradient) add(out, "entering", runner.dentering());
    const Segment end = plan.segments.segment(plan.segments.segments() - 1);
    if (end.owner == ranks.rank()) add(out, "leaving", runner.leaving());
  });
  return out;
}

Worst compare(const SequenceResults& got, const SequenceResults& want) {
  Worst worst{std::abs(got.loss / want.loss - 1), 0, "loss"};
  std::vector<double> all_got, all_want;
  for (const auto& [name, values] : want.tensors) {
    const auto found = got.tensors.find(name);
    require(found != got.tensors.end(), "a result is missing");
    const double d = distance(found->second, values);
    if (std::isnan(d)) return {d, d, name};
    if (d > worst.distance) worst = {d, 0, name};
    all_got.insert(all_got.end(), found->second.begin(), found->second.end());
    all_want.insert(all_want.end(), values.begin(), values.end());
  }
  worst.all = distance(all_got, all_want);
  return worst;
}

}  // namespace rwkv::test
