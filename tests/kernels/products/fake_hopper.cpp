// Products with relu squared in one kernel, on the host: right or wrong, as slow as the test says.
#include <hopper_products.h>

#include <algorithm>
#include <cmath>
#include "tests/kernels/products/fake_cublaslt.h"

namespace rwkv::cuda {

std::string hopper_library() { return fake::library().fuses ? "CUTLASS 9.9.9" : ""; }
bool hopper_takes(const ReluSquaredProduct& op) {
  return fake::library().fuses && op.product.a.dtype == DType::kBF16;
}

void hopper_relu_squared(const Stream&, const ReluSquaredProduct& op) {
  if (!fake::library().fuses_at_all) throw Error("it does not start");
  const Matmul& p = op.product;
  const int64_t m = p.c.shape[0], n = p.c.shape[1], k = p.a.shape[1];
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += float(p.a.as<bf16>()[i * k + l]) *
               float(p.b.as<bf16>()[p.trans_b ? j * k + l : l * n + j]);
      }
      const float to = op.squared.empty()
                           ? std::max(sum, 0.0F) * std::max(sum, 0.0F)
                           : sum * 2 * std::sqrt(float(op.squared.as<bf16>()[i * n + j]));
      // The last element alone: a kernel that forgets its edge.
      const bool edge = i == m - 1 && j == n - 1;
      p.c.as<bf16>()[i * n + j] = bf16(edge && !fake::library().fuses_rightly ? to + 100 : to);
    }
  }
  ++fake::library().fused_calls;
  fake::pass_time(fake::library().fused_time);
}

}  // namespace rwkv::cuda
