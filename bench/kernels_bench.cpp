// Speed of the CPU kernels on one thread, at the shapes of recipes/base.yaml and of a 768-wide
// model.
//   cmake --preset release -DRWKV_BENCH=ON && cmake --build --preset release --target bench_kernels
//   build/release/bench/bench_kernels
// Rates: bytes or tokens a second; products in FLOP a second.
#include <benchmark/benchmark.h>

#include "core/base/arena.h"
#include "core/base/rng.h"
#include "kernels/backend.h"

namespace rwkv {
namespace {

// Tensors of small random numbers, kept until the benchmark ends.
class Memory {
 public:
  Tensor make(DType type, const Shape& shape) {
    Buffer& buffer = buffers_.emplace_back(shape.elements() * bytes_of(type));
    const Tensor t{buffer.data(), type, shape};
    const Philox random(1, "bench");
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const auto x = static_cast<float>(0.1 * random.normal(static_cast<uint64_t>(i % 4096)));
      if (type == DType::kBF16) {
        t.as<bf16>()[i] = bf16(x);
      } else {
        t.as<float>()[i] = x;
      }
    }
    return t;
  }

 private:
  std::vector<Buffer> buffers_;
};

DType type_of(const benchmark::State& state) {
  return state.range(0) == 16 ? DType::kBF16 : DType::kF32;
}

// bits, M, N, K: c = a b^T.
void product(benchmark::State& state) {
  Memory memory;
  const DType type = type_of(state);
  const int64_t m = state.range(1), n = state.range(2), k = state.range(3);
  const Matmul op{.a = memory.make(type, {m, k}),
                  .b = memory.make(type, {n, k}),
                  .c = memory.make(type, {m, n}),
                  .trans_b = true};
  for (auto _ : state) cpu_backend().matmul({}, op);
  state.counters["FLOP/s"] = benchmark::Counter(2.0 * static_cast<double>(m * n * k),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

// bits, heads, head size: one sequence of 256 tokens, forward and backward.
void wkv7(benchmark::State& state) {
  constexpr int64_t kTokens = 256;
  Memory memory;
  const DType type = type_of(state), acc = DType::kF32;
  const int64_t h = state.range(1), n = state.range(2);
  const Shape tokens{1, kTokens, h, n}, square{1, h, n, n};
  const Shape saved{1, h, wkv7_saved_states(kTokens), n, wkv7_state_stride(n)};
  const Wkv7Sequence in{.r = memory.make(type, tokens),
                        .k = memory.make(type, tokens),
                        .v = memory.make(type, tokens),
                        .a = memory.make(type, tokens),
                        .b = memory.make(type, tokens),
                        .w_raw = memory.make(type, tokens)};
  const Wkv7Forward forward{.in = in,
                            .s_in = memory.make(acc, square),
                            .y = memory.make(type, tokens),
                            .s_out = memory.make(acc, square),
                            .s_saved = memory.make(acc, saved)};
  const Wkv7Backward backward{.in = in,
                              .s_saved = forward.s_saved,
                              .dy = memory.make(type, tokens),
                              .ds_out = {},
                              .dr = memory.make(type, tokens),
                              .dk = memory.make(type, tokens),
                              .dv = memory.make(type, tokens),
                              .da = memory.make(type, tokens),
                              .db = memory.make(type, tokens),
                              .dw_raw = memory.make(type, tokens),
                              .ds_in = {},
                              .scratch = memory.make(acc, {1, wkv7_backward_scratch(n)})};
  for (auto _ : state) {
    cpu_backend().wkv7_forward({}, forward);
    cpu_backend().wkv7_backward({}, backward);
  }
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(kTokens),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK(product)
    ->ArgNames({"bits", "M", "N", "K"})
    ->ArgsProduct({{16, 32}, {2048}, {64, 768}, {64, 768}});
BENCHMARK(wkv7)->ArgNames({"bits", "H", "N"})->ArgsProduct({{16, 32}, {2}, {32, 64}});

}  // namespace
}  // namespace rwkv
