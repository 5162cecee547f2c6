#include "tests/support/trajectory.h"

#include <cmath>

#include "core/plan/schedule.h"
#include "core/train/optimizer.h"

namespace rwkv::test {
namespace {

OptimizerConfig optimizer_of(const nlohmann::json& c) {
  OptimizerConfig config;
  config.lr = c["lr_init"];
  config.lr_final = c["lr_final"];
  config.warmup = c["warmup_steps"];
  config.weight_decay = c["weight_decay"];
  config.beta1 = c["betas"][0];
  config.beta2 = c["betas"][1];
  config.eps = c["eps"];
  config.clip = c["grad_clip"];
  return config;
}

}  // namespace

TrajectoryResult run_trajectory(const Golden& golden, const Backend& ops, Precision precision,
                                const std::vector<ParamSpec>& table, int64_t steps) {
  const nlohmann::json c = golden.config();
  const OptimizerConfig config = optimizer_of(c);
  ParamStore store(table, precision, true);
  load_params(golden, "params_init", store);
  Optimizer optimizer(config, store);
  const std::vector<int32_t> tokens = golden.tokens("tokens");
  const auto losses = golden.read("loss"), norms = golden.read("grad_norm"),
             lrs = golden.read("lr");
  const int64_t batch = c["batch"];
  const size_t per_step = tokens.size() / losses.size();
  const double count = static_cast<double>(batch * int64_t{c["tokens"]});
  TrajectoryResult result;
  for (int64_t step = 0; step < steps; ++step) {
    const auto s = static_cast<size_t>(step);
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(s * per_step);
    const std::vector<int32_t> chunk(first, first + static_cast<std::ptrdiff_t>(per_step));
    const ModelResults got =
        run_model({ops, precision, false, 1, c["l2wrap"]}, golden.model(), store, chunk, batch);
    const Pass pass{{1}, ops};
    const double norm = optimizer.norm(pass, 1 / count);
    const double lr = learning_rate(config, step, c["steps"]);
    raise(result.worst_loss, std::fabs(got.loss - losses[s]));
    raise(result.worst_norm, std::fabs(norm / norms[s] - 1));
    raise(result.worst_lr, std::fabs(lr / lrs[s] - 1));
    optimizer.step(pass, lr, step + 1, norm, 1 / count);
  }
  for (size_t i = 0; i < store.size() && steps == c["steps"]; ++i) {
    const double d =
        distance(doubles(store.master(i)), golden.read("params_final/" + store.specs()[i].name));
    if (!(d <= result.worst_tensor)) result.tensor = store.specs()[i].name;
    raise(result.worst_tensor, d);
  }
  return result;
}

}  // namespace rwkv::test
