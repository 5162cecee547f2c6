// The official recipe of RWKV-7 as a table: which parameters there are, how each starts, and how it
// is trained (BlinkDL/RWKV-LM, RWKV-v7/train_temp: src/model.py, src/trainer.py).
#pragma once

#include <string>
#include <vector>

#include "core/config/recipe.h"
#include "core/plan/param_spec.h"

namespace rwkv {

// Parameters of an RWKV-7 block, in the table's order. The first layer alone has ln0 and lacks the
// value residual (v0, v1, v2).
enum class Rwkv7Param : int {
  kLn0Weight,
  kLn0Bias,
  kLn1Weight,
  kLn1Bias,
  kLn2Weight,
  kLn2Bias,
  kXr,
  kXw,
  kXk,
  kXv,
  kXa,
  kXg,
  kW0,
  kA0,
  kV0,
  kKk,
  kKa,
  kRk,
  kW1,
  kW2,
  kA1,
  kA2,
  kV1,
  kV2,
  kG1,
  kG2,
  kReceptance,
  kKey,
  kValue,
  kOutput,
  kLnXWeight,
  kLnXBias,
  kFfnXk,
  kFfnKey,
  kFfnValue,
  kCount
};

// Fills what a recipe leaves open: feed-forward width 4C, ranks by the official formula
// max(32, 32 round(f sqrt(C) / 32)), f = 2.5, 2.5, 1.7, 5 (half to even), vocab of the tokenizer.
ModelConfig resolve_model(ModelConfig, int64_t tokenizer_vocab);

// "att.x_r": the name behind "blocks.i.".
std::string_view short_name(Rwkv7Param);

// Specs of layer `layer`; absent parameters are left out.
std::vector<ParamSpec> rwkv7_params(const ModelConfig&, int64_t layer);

// The whole model: emb.weight, blocks in order, ln_out, head.weight. `config` is resolved.
std::vector<ParamSpec> param_table(const ModelConfig& config);

// For `check --params`: name, shape, start, lr scale, decay; one line a parameter.
std::string describe(const std::vector<ParamSpec>&);

// Floating-point operations of the matrix products and the recurrence, forward and backward, a
// token (2 a multiply-add; backward counted as twice forward): 6 times the product parameters, emb
// left out, plus 38 H N^2 L for the recurrence.
double flops_per_token(const ModelConfig&);

}  // namespace rwkv
