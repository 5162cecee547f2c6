// Every backend that runs here beside the reference: the CPU's instruction sets, and the CUDA
// kernels on the emulator and on the GPU that is here.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/emulator/emulator_backend.h"
#include "tests/support/gpu/gpu_backend.h"

namespace rwkv::test {

inline std::vector<const Backend*> tested_backends() {
  std::vector<const Backend*> all;
  for (const std::string_view isa : cpu_isas()) all.push_back(&cpu_backend(isa));
  all.push_back(&emulator_backend());
  if (const Backend* gpu = gpu_backend()) all.push_back(gpu);
  return all;
}

// The CUDA kernels' own code, on the emulator or on a GPU.
inline bool runs_cuda_kernels(const Backend& ops) { return ops.name.starts_with("cuda"); }
// Where a thread of a kernel is a fiber: slow, so shapes are small.
inline bool runs_on_fibers(const Backend& ops) { return &ops == &emulator_backend(); }

// As a test's name may be: letters, digits and underscores.
inline std::string test_name(const Backend& ops) {
  std::string name = std::string(ops.name) + "_" + std::string(ops.isa);
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

// Tests that run once per backend: TEST_P over it, and INSTANTIATE_TEST_SUITE_P(All, NAME,
// testing::ValuesIn(tested_backends()), backend_name).
using PerBackend = testing::TestWithParam<const Backend*>;
inline std::string backend_name(const testing::TestParamInfo<const Backend*>& chosen) {
  return test_name(*chosen.param);
}

}  // namespace rwkv::test
