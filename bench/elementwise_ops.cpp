#include <fmt/format.h>

#include <array>
#include <cstdio>

#include "bench/op_bench.h"

namespace rwkv::bench {
namespace {

constexpr int64_t kHead = 64;

// Tensors of (rows, width), and what an op does with them.
struct Room {
  Bench& bench;
  Shape flat;

  Tensor half(float scale = 1) const { return bench.tensor(DType::kBF16, flat, scale); }
  Tensor wide(float scale = 1) const { return bench.tensor(DType::kF32, flat, scale); }
  Tensor row() const { return bench.tensor(DType::kF32, {flat[1]}, 1); }
  TokenSum sum() const { return TokenSum(row()); }
  // bytes: of an element of (rows, width), read and written.
  void report(const char* name, double bytes, const std::function<void()>& call) const {
    const double seconds = bench.seconds(call);
    fmt::print("{:22} {:5} x {:5}: {:7.3f} ms, {:5.0f} GB/s\n", name, flat[0], flat[1],
               1e3 * seconds, 1e-9 * bytes * static_cast<double>(flat.elements()) / seconds);
    std::fflush(stdout);
  }
};

void before_recurrence(const Room& room) {
  const Backend& ops = room.bench.ops();
  const Tensor iclr = room.half(), gate = room.half(), key = room.half(), value = room.half();
  const Tensor first = room.half(), k = room.half(), v = room.half(), a = room.half();
  const Tensor b = room.half(), dw_raw = room.half();
  const std::array<Tensor, 4> p = {room.row(), room.row(), room.row(), room.row()};
  const TimeMixInForward forward{iclr, gate, key,   value, first, p[0], p[1],
                                 p[2], p[3], kHead, k,     v,     a,    b};
  room.report("time mix in", 18, [&] { ops.time_mix_in_forward(room.bench.stream(), forward); });
  const TimeMixInBackward backward{.iclr = iclr,
                                   .value_gate = gate,
                                   .key = key,
                                   .value = value,
                                   .v_first = first,
                                   .a0 = p[0],
                                   .k_k = p[1],
                                   .k_a = p[2],
                                   .v0 = p[3],
                                   .head_size = kHead,
                                   .dw_raw = dw_raw,
                                   .dk = k,
                                   .dv = v,
                                   .da = a,
                                   .db = b,
                                   .diclr = room.half(),
                                   .dvalue_gate = room.half(),
                                   .dkey = room.half(),
                                   .dvalue = room.half(),
                                   .dv_first = room.wide(0),
                                   .dw0 = room.sum(),
                                   .da0 = room.sum(),
                                   .dk_k = room.sum(),
                                   .dk_a = room.sum(),
                                   .dv0 = room.sum()};
  room.report("time mix in, back", 40,
              [&] { ops.time_mix_in_backward(room.bench.stream(), backward); });
  room.bench.clear();
}

void after_recurrence(const Room& room) {
  const Backend& ops = room.bench.ops();
  const Tensor y = room.half(), r = room.half(), k = room.half(), v = room.half(), g = room.half();
  const Tensor z = room.half(), weight = room.row(), bias = room.row(), r_k = room.row();
  const TimeMixOutForward forward{y, r, k, v, g, weight, bias, r_k, kHead, 64e-5, z};
  room.report("time mix out", 12, [&] { ops.time_mix_out_forward(room.bench.stream(), forward); });
  const Tensor dbonus = room.bench.tensor(DType::kF32, {room.flat[0], room.flat[1] / kHead}, 0);
  const TimeMixOutBackward backward{.y = y,
                                    .r = r,
                                    .k = k,
                                    .v = v,
                                    .g = g,
                                    .ln_weight = weight,
                                    .ln_bias = bias,
                                    .r_k = r_k,
                                    .head_size = kHead,
                                    .dz = room.half(),
                                    .z = z,
                                    .dy = room.half(),
                                    .dv = room.half(),
                                    .dg = room.half(),
                                    .dbonus = dbonus,
                                    .dln_weight = room.sum(),
                                    .dln_bias = room.sum(),
                                    .dr_k = room.sum()};
  room.report("time mix out, back", 20,
              [&] { ops.time_mix_out_backward(room.bench.stream(), backward); });
  room.bench.clear();
}

void squares(const Room& room) {
  const Backend& ops = room.bench.ops();
  const Tensor x = room.half(), dx = room.half();
  room.report("relu squared", 4, [&] {
    ops.activation_forward(room.bench.stream(), {Activation::kReluSquared, x, x});
  });
  room.report("relu squared, back", 6, [&] {
    ops.activation_backward(room.bench.stream(), {Activation::kReluSquared, x, dx, dx});
  });
  room.bench.clear();
}

void update(const Room& room) {
  const std::array<AdamWTensor, 1> tensors = {{{.master = room.wide(),
                                                .m = room.wide(0),
                                                .v = room.wide(0),
                                                .grad = room.wide(),
                                                .compute = room.half()}}};
  AdamW op{};
  op.tensors = tensors;
  op.beta1 = 0.9, op.beta2 = 0.99, op.eps = 1e-18;
  op.correction1 = op.correction2 = op.grad_scale = 1;
  room.report("AdamW", 30, [&] { room.bench.ops().adamw(room.bench.stream(), op); });
  room.bench.clear();
}

}  // namespace

void elementwise_ops(Bench& bench, int64_t rows, int64_t width) {
  const Room room{bench, {rows, width}};
  before_recurrence(room);
  after_recurrence(room);
  squares({bench, {rows, 4 * width}});
  update(room);
}

}  // namespace rwkv::bench
