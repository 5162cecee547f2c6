// Tests of ops that run once a backend, type and number of threads.
#pragma once

#include <gtest/gtest.h>

#include "tests/kernels/tested_backends.h"
#include "tests/kernels/two_backends.h"
#include "tests/support/tolerance.h"

namespace rwkv::test {

struct OpCase {
  const Backend* ops;
  DType compute;
  int threads;
};

class OnEveryBackend : public testing::TestWithParam<OpCase> {
 protected:
  TwoBackends bench() const {
    return TwoBackends(GetParam().compute, *GetParam().ops, GetParam().threads);
  }
};

inline constexpr int64_t kRows = 70, kWidth = 96, kHead = 32;  // rows: two blocks and a piece
inline const Shape kFlat{kRows, kWidth};

inline std::vector<OpCase> op_cases() {
  std::vector<OpCase> all;
  for (const Backend* ops : tested_backends()) {
    all.push_back({ops, DType::kF32, 1});
    // A device has no threads of its own.
    if (!runs_on_fibers(*ops)) all.push_back({ops, DType::kF32, 3});
    // Without hardware for it oneDNN may refuse bf16 products; the program falls back to float32.
    if (ops->bf16) all.push_back({ops, DType::kBF16, 2});
    if (ops->fp16) all.push_back({ops, DType::kF16, 1});
  }
  return all;
}

inline std::string op_case_name(const testing::TestParamInfo<OpCase>& chosen) {
  return test_name(*chosen.param.ops) + "_" + std::string(name_of(chosen.param.compute)) + "_" +
         std::to_string(chosen.param.threads);
}

}  // namespace rwkv::test
