// One forward and backward pass of a small model, from golden or random inputs, results as doubles.
#pragma once

#include <map>

#include "core/model/model.h"
#include "tests/support/golden.h"
#include "tests/support/tensors.h"

namespace rwkv::test {

struct ModelResults {
  double loss = 0;  // mean over tokens
  std::vector<double> logits;
  std::map<std::string, std::vector<double>> grads;                  // of the mean loss
  std::vector<std::vector<std::vector<double>>> leaving, dentering;  // layer, carry
};

struct ModelRun {
  const Backend& ops;
  Precision precision;
  bool recompute = false;
  int threads = 1;
  double l2wrap = 0;
  bool keep_mixes = true;
};

// tokens: (B, T + 1). Entering states: layer, carry; empty: zero.
ModelResults run_model(const ModelRun&, const ModelConfig&, ParamStore&,
                       const std::vector<int32_t>& tokens, int64_t batch,
                       const std::vector<std::vector<std::vector<double>>>& entering = {});

// Incoming states of a golden model.
std::vector<std::vector<std::vector<double>>> golden_states(const Golden&, const std::string& group,
                                                            int64_t layers);

inline const Precision kDouble{DType::kF64, DType::kF64};
inline const Precision kSingle{DType::kF32, DType::kF32};
inline const Precision kHalf{DType::kBF16, DType::kF32};

}  // namespace rwkv::test
