// Clipping and AdamW over all parameters of a store.
#pragma once

#include "core/config/recipe.h"
#include "core/model/param_store.h"

namespace rwkv {

class Optimizer {
 public:
  Optimizer(const OptimizerConfig& config, ParamStore& store);

  // Norm of all gradients times `scale`: the mean's, when gradients are sums over tokens.
  double norm(const Pass&, double scale);
  // One update with learning rate lr. `update` counts from 1. Gradients are multiplied by `scale`
  // and by min(1, clip / (norm + 1e-6)). Only the store's own elements are updated.
  void step(const Pass&, double lr, int64_t update, double norm, double scale);

 private:
  OptimizerConfig config_;
  ParamStore& store_;
  Buffer squares_, on_host_;          // f64: one, or in fixed point one a parameter
  std::vector<AdamWTensor> tensors_;  // those this store updates,
  std::vector<size_t> updated_;       // and which parameters they are
};

}  // namespace rwkv
