#include "tests/support/model_run.h"

namespace rwkv::test {
namespace {

std::vector<std::vector<std::vector<double>>> states(const Workspace::States& from, double scale) {
  std::vector<std::vector<std::vector<double>>> out;
  for (const auto& layer : from) {
    out.emplace_back();
    for (const Tensor& t : layer) {
      out.back().push_back(doubles(t));
      for (double& x : out.back().back()) x *= scale;
    }
  }
  return out;
}

}  // namespace

ModelResults run_model(const ModelRun& how, const ModelConfig& config, ParamStore& store,
                       const std::vector<int32_t>& tokens, int64_t batch,
                       const std::vector<std::vector<std::vector<double>>>& entering) {
  const int64_t context = static_cast<int64_t>(tokens.size()) / batch - 1;
  const Model model(config);
  ModelPlan plan{how.precision, batch, context, how.threads, true, how.recompute};
  plan.keep_mixes = how.keep_mixes;
  Workspace ws(model, plan);
  Owned<int32_t> inputs({batch, context}), targets({batch, context});
  Owned<float> weight({batch, context});
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < context; ++t) {
      inputs[b * context + t] = tokens[static_cast<size_t>(b * (context + 1) + t)];
      targets[b * context + t] = tokens[static_cast<size_t>(b * (context + 1) + t + 1)];
      weight[b * context + t] = 1;
    }
  }
  const Batch views{inputs.view(), targets.view(), weight.view()};
  const Pass pass{{how.threads}, how.ops};
  store.refresh(how.ops, pass.stream);
  store.zero_gradients();
  model.reset(ws);
  for (size_t l = 0; l < entering.size(); ++l) {
    for (size_t i = 0; i < entering[l].size(); ++i) assign(ws.entering[l][i], entering[l][i]);
  }
  model.forward_backward(pass, store, ws, views, how.l2wrap);
  const double count = static_cast<double>(batch * context);
  ModelResults results;
  for (double x : doubles(ws.loss)) results.loss += x / count;
  for (size_t i = 0; i < store.size(); ++i) {
    std::vector<double> grad = doubles(store.grad(i));
    for (double& x : grad) x /= count;
    results.grads[store.specs()[i].name] = std::move(grad);
  }
  results.leaving = states(ws.leaving, 1);
  results.dentering = states(ws.dentering, 1 / count);
  Buffer buffer(batch * context * config.vocab * 8);
  const Tensor logits{buffer.data(), how.precision.accumulate, {batch, context, config.vocab}};
  model.loss(pass, store, ws, views, logits);
  results.logits = doubles(logits);
  return results;
}

std::vector<std::vector<std::vector<double>>> golden_states(const Golden& golden,
                                                            const std::string& group,
                                                            int64_t layers) {
  std::vector<std::vector<std::vector<double>>> out;
  for (int64_t l = 0; l < layers; ++l) {
    const std::string folder = group + "/" + std::to_string(l) + "/";
    out.push_back({golden.read(folder + "att_shift"), golden.read(folder + "wkv"),
                   golden.read(folder + "ffn_shift")});
  }
  return out;
}

}  // namespace rwkv::test
