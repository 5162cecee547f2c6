// Single ops of a backend at the shapes that a training step gives them: milliseconds, TFLOP/s,
// GB/s. The first table is what products reach, which caps everything else.
//   gpu_ops [cuda | cpu] [products | measured | norm | elements | wkv | attention] [WIDTH]
// measured: products by the algorithm that timing finds, in place of the library's first. WIDTH: of
// norm and elements, in place of all of them.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <numeric>

#include "bench/op_bench.h"
#include "kernels/cuda_library.h"

namespace rwkv::bench {
namespace {

void product(Bench& bench, int64_t rows, int64_t in, int64_t out) {
  const Tensor x = bench.tensor(DType::kBF16, {rows, in}, 1);
  const Tensor w = bench.tensor(DType::kBF16, {out, in}, 0.02f);
  const Tensor y = bench.tensor(DType::kBF16, {rows, out}, 1);
  const Tensor dw = bench.tensor(DType::kF32, {out, in}, 0);
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in * out);
  const double forward = bench.seconds(
      [&] { bench.ops().matmul(bench.stream(), {.a = x, .b = w, .c = y, .trans_b = true}); });
  const double input = bench.seconds(
      [&] { bench.ops().matmul(bench.stream(), {.a = y, .b = w, .c = x, .beta = 1}); });
  const double weight = bench.seconds([&] {
    bench.ops().weight_gradient(bench.stream(), {.left = y, .right = x, .to = TokenSum(dw)});
  });
  fmt::print(
      "{:6} x {:5} -> {:5}:  y {:7.3f} ms {:5.0f}   dx+= {:7.3f} ms {:5.0f}   dw+= {:7.3f} ms "
      "{:5.0f} TFLOP/s\n",
      rows, in, out, 1e3 * forward, flops / forward / 1e12, 1e3 * input, flops / input / 1e12,
      1e3 * weight, flops / weight / 1e12);
  std::fflush(stdout);
  bench.clear();
}

// The channel mix's products with relu squared, in two kernels and in one where there is one.
void relu_squared(Bench& bench, int64_t rows, int64_t width) {
  const ProductChoices* choices = bench.ops().choices;
  const int64_t inner = 4 * width;
  const Tensor x = bench.tensor(DType::kBF16, {rows, width}, 1);
  const Tensor w = bench.tensor(DType::kBF16, {inner, width}, 0.02f);
  const Tensor h = bench.tensor(DType::kBF16, {rows, inner}, 1);
  const Tensor dh = bench.tensor(DType::kBF16, {rows, inner}, 1);
  const ReluSquaredProduct forward{{.a = x, .b = w, .c = h, .trans_b = true}};
  const ReluSquaredProduct backward{{.a = x, .b = w.reshaped({width, inner}), .c = dh}, h};
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(width * inner);
  const std::string written = choices == nullptr ? "" : choices->write();
  const std::string id = written.substr(0, written.find('\n'));
  const bool fuses = id.find("CUTLASS") != std::string::npos &&
                     cuda_library().device.find("sm_90") != std::string::npos;
  for (const char* how : {"apart", "fused"}) {
    if (how == std::string_view("fused") && !fuses) continue;
    if (choices != nullptr) {
      const std::string shape = fmt::format("\nrelu_squared {} {} {} ", rows, inner, width);
      const std::string why =
          choices->read(id + shape + "forward " + how + shape + "backward " + how + "\n");
      if (!why.empty()) throw Error(why);
    }
    const auto seconds = [&](const ReluSquaredProduct& op) {
      return bench.seconds([&] { bench.ops().relu_squared_product(bench.stream(), op); });
    };
    const double there = seconds(forward), back = seconds(backward);
    fmt::print("relu squared {} x {} -> {}, {}: {:.3f} ms {:.0f}, back {:.3f} ms {:.0f} TFLOP/s\n",
               rows, width, inner, how, 1e3 * there, flops / there / 1e12, 1e3 * back,
               flops / back / 1e12);
    std::fflush(stdout);
  }
  bench.clear();
}

void products(Bench& bench) {
  for (const int64_t width : {768, 1024, 2048, 2560}) relu_squared(bench, 16384, width);
  for (const int64_t width : {768, 1024, 2048, 2560}) {
    for (const int64_t rows : {16384}) {
      product(bench, rows, width, width);
      product(bench, rows, width, 4 * width);
      product(bench, rows, 4 * width, width);
      product(bench, rows, width, 64);
      product(bench, rows, 64, width);
    }
  }
  product(bench, 8192, 8192, 8192);
  product(bench, 2048, 768, 65536);
  product(bench, 2048, 2048, 65536);
}

// Numbers of the host in the backend's memory.
Tensor upload(Bench& bench, const std::vector<int32_t>& values, const Shape& shape) {
  const Tensor room = bench.tensor(DType::kF32, shape, 0);  // of the same size
  const Tensor to{room.data, DType::kI32, shape};
  copy(*bench.ops().memory, bench.stream(), to, view_of(values.data(), shape));
  return to;
}

// document: tokens from one document's start to the next; 0: none starts.
void recurrence(Bench& bench, int64_t batch, int64_t heads, int64_t tokens, int64_t document = 0) {
  constexpr int64_t kHead = 64;
  const Shape shape{batch, tokens, heads, kHead};
  const auto half = [&](float scale) { return bench.tensor(DType::kBF16, shape, scale); };
  const float unit = 1 / std::sqrt(static_cast<float>(kHead));
  const Tensor r = half(1), k = half(1), v = half(1), a = half(-unit), b = half(unit), dy = half(1);
  const Tensor y = half(0), dr = half(0), dk = half(0), dv = half(0), da = half(0), db = half(0);
  const Tensor w = half(1), dw = half(0);
  const Tensor saved = bench.tensor(
      DType::kF32, {batch, heads, wkv7_saved_states(tokens), kHead, wkv7_state_stride(kHead)}, 0);
  const Tensor scratch = bench.tensor(DType::kF32, {256, wkv7_backward_scratch(kHead)}, 0);
  const Tensor r_k = bench.tensor(DType::kF32, {heads, kHead}, 1);
  const Tensor dbonus = bench.tensor(DType::kF32, {batch, tokens, heads}, 1);
  Wkv7Sequence in{.r = r, .k = k, .v = v, .a = a, .b = b, .w_raw = w};
  if (document > 0) {
    std::vector<int32_t> starts(static_cast<size_t>(batch * tokens));
    for (size_t i = 0; i < starts.size(); i += static_cast<size_t>(document)) starts[i] = 1;
    in.starts = upload(bench, starts, {batch, tokens});
  }
  const double forward = bench.seconds([&] {
    bench.ops().wkv7_forward(bench.stream(),
                             {.in = in, .s_in = {}, .y = y, .s_out = {}, .s_saved = saved});
  });
  const double backward = bench.seconds([&] {
    bench.ops().wkv7_backward(bench.stream(), {.in = in,
                                               .s_saved = saved,
                                               .dy = dy,
                                               .ds_out = {},
                                               .bonus = {dbonus, r_k},
                                               .dr = dr,
                                               .dk = dk,
                                               .dv = dv,
                                               .da = da,
                                               .db = db,
                                               .dw_raw = dw,
                                               .ds_in = {},
                                               .scratch = scratch});
  });
  fmt::print(
      "({}, {} heads, {}){}:  forward {:.3f} ms  backward {:.3f} ms  both {:.3f} ms, {:.1f} ps an "
      "element\n",
      batch, heads, tokens, document > 0 ? " with documents" : "", 1e3 * forward, 1e3 * backward,
      1e3 * (forward + backward),
      1e12 * (forward + backward) / static_cast<double>(shape.elements()));
  std::fflush(stdout);
  bench.clear();
}

// Norm and shift with six mixes, fused and one after the other, as GB/s of what the fused ones
// move.
void norm_and_shift(Bench& bench, int64_t rows, int64_t width) {
  const Shape sequence{1, rows, width};
  const auto half = [&](float scale) { return bench.tensor(DType::kBF16, sequence, scale); };
  const auto row = [&](float scale) { return bench.tensor(DType::kF32, {width}, scale); };
  const Tensor x = half(1), u = half(0), du = half(0), dx = half(0), weight = row(1), bias = row(1);
  const Tensor mean = bench.tensor(DType::kF32, {rows}, 0),
               rstd = bench.tensor(DType::kF32, {rows}, 0);
  const Tensor halo = bench.tensor(DType::kF32, {1, width}, 0);
  NormShiftForward forward{{x, weight, bias, 1e-5, u, mean, rstd},
                           {.u = u, .halo = halo, .mixes = kMaxMixes, .mix = {}, .out = {}}};
  NormShiftBackward backward{{x, weight, bias, mean, rstd, du, dx, dx, row(0), row(0)},
                             {.u = u,
                              .halo = halo,
                              .dhalo_out = {},
                              .mixes = kMaxMixes,
                              .mix = {},
                              .dout = {},
                              .du = du,
                              .dmix = {}}};
  for (size_t m = 0; m < kMaxMixes; ++m) {
    forward.shift.mix[m] = backward.shift.mix[m] = row(1);
    forward.shift.out[m] = half(0);
    backward.shift.dout[m] = half(1);
    backward.shift.dmix[m] = row(0);
  }
  const Backend& ops = bench.ops();
  const double fused = bench.seconds([&] { ops.norm_shift_forward(bench.stream(), forward); });
  const double apart = bench.seconds([&] {
    ops.layer_norm_forward(bench.stream(), forward.norm);
    ops.token_shift_forward(bench.stream(), forward.shift);
  });
  const double back = bench.seconds([&] { ops.norm_shift_backward(bench.stream(), backward); });
  const double unit = static_cast<double>(rows * width) * 2e-9;
  fmt::print(
      "norm and shift {} x {}: forward {:.0f} GB/s (apart {:.0f}), backward {:.0f} GB/s, {:.1f} "
      "us\n",
      rows, width, 8 * unit / fused, 8 * unit / apart, (width <= 2048 ? 9 : 12) * unit / back,
      1e6 * back);
  std::fflush(stdout);
  bench.clear();
}

// TFLOP/s of the products that a causal mask leaves: 4 N a score forward, 10 N backward.
void attention(Bench& bench, int64_t heads, int64_t key_heads, int64_t tokens, int64_t window) {
  constexpr int64_t kHead = 64;
  const Shape query{1, tokens, heads, kHead}, key{1, tokens, key_heads, kHead};
  const auto half = [&](const Shape& shape, float scale) {
    return bench.tensor(DType::kBF16, shape, scale);
  };
  const Tensor q = half(query, 1), dy = half(query, 1), y = half(query, 0), dq = half(query, 0);
  const Tensor k = half(key, 1), v = half(key, 1), dk = half(key, 0), dv = half(key, 0);
  const Tensor lse = bench.tensor(DType::kF32, {1, tokens, heads}, 0);
  const Tensor delta = bench.tensor(DType::kF32, {1, tokens, heads}, 0);
  std::vector<int32_t> places(static_cast<size_t>(tokens));
  std::iota(places.begin(), places.end(), 0);
  const Tensor positions = upload(bench, places, {1, tokens});
  const AttentionInput in{
      .q = q, .k = k, .v = v, .positions = positions, .window = window, .scale = 0.125};
  const double forward = bench.seconds([&] {
    bench.ops().attention_forward(bench.stream(), {in, y, lse});
  });
  const double backward = bench.seconds([&] {
    bench.ops().attention_backward(
        bench.stream(),
        {.in = in, .y = y, .dy = dy, .lse = lse, .dq = dq, .dk = dk, .dv = dv, .delta = delta});
  });
  const int64_t seen = window == 0 ? tokens : std::min(window, tokens);
  const int64_t unseen = seen * (seen - 1) / 2;
  const double scores = static_cast<double>(heads) * static_cast<double>(seen * tokens - unseen);
  fmt::print(
      "attention {} of {} heads, {} tokens, window {}: forward {:.3f} ms, {:.1f} TFLOP/s; "
      "backward {:.3f} ms, {:.1f} TFLOP/s\n",
      heads, key_heads, tokens, window, 1e3 * forward, 4e-12 * kHead * scores / forward,
      1e3 * backward, 1e-11 * kHead * scores / backward);
  std::fflush(stdout);
  bench.clear();
}

void run(const std::string& backend, const std::string& what, const std::vector<int64_t>& widths) {
  if (backend == "cuda" && cuda_library().devices == 0) throw Error(cuda_library().why);
  Bench bench(backend == "cuda" ? *cuda_library().backend : cpu_backend());
  if (what == "measured" && bench.ops().choices != nullptr) bench.ops().choices->measure(true);
  if (what == "all" || what == "products" || what == "measured") products(bench);
  if (what == "products" || what == "measured") return;
  if (what == "all" || what == "attention") {
    attention(bench, 32, 32, 4096, 0);
    attention(bench, 32, 8, 16384, 512);
  }
  if (what == "attention") return;
  for (const int64_t width : widths) {
    if (what == "all" || what == "norm") norm_and_shift(bench, 16384, width);
    if (what == "all" || what == "elements") elementwise_ops(bench, 16384, width);
  }
  if (what == "norm" || what == "elements") return;
  recurrence(bench, 8, 64, 4096);
  recurrence(bench, 8, 64, 4096, 700);
  recurrence(bench, 16, 12, 4096);
  recurrence(bench, 4, 32, 4096);
  recurrence(bench, 4, 16, 4096);
  recurrence(bench, 4, 12, 4096);
  recurrence(bench, 1, 12, 16384);
}

}  // namespace
}  // namespace rwkv::bench

int main(int count, char** arguments) {
  try {
    std::vector<int64_t> widths = {768, 1024, 2048, 2560};
    if (count > 3) widths = {std::stoll(arguments[3])};
    rwkv::bench::run(count > 1 ? arguments[1] : "cuda", count > 2 ? arguments[2] : "all", widths);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
