// cuBLASLt and the few calls of the CUDA runtime that choosing among its algorithms takes, on the
// host: products are computed in double from what the layouts say, and time is what the test says
// an algorithm takes.
#pragma once

#include <cstdint>
#include <vector>

namespace rwkv::fake {

struct ProductCall {
  uint64_t algorithm;
  uint64_t m, n, k;
  int32_t count;
  bool whole;  // no algorithm that splits sums was allowed when it was asked for
};

struct Library {
  std::vector<float> times = {1};  // milliseconds of each algorithm that it offers, best first
  std::vector<uint64_t> refused;   // algorithms that are offered and do not run
  uint32_t alignment = 0;          // of operands, as the last question for algorithms had it
  std::vector<ProductCall> calls;
  const char* gpu = "Fake GPU";
  int device = 0;  // the current one
  // The kernel with relu squared in it, on this GPU: how long it takes, whether it is there,
  // whether what it gives is right.
  float fused_time = 1;
  bool fuses = false, fuses_rightly = true, fuses_at_all = true;
  int fused_calls = 0;
};
Library& library();
void pass_time(float milliseconds);

}  // namespace rwkv::fake
