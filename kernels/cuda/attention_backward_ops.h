// Which kernels attention runs on: heads of 64 and 128 in bf16 on tensor cores.
#pragma once

#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/attention_tile_backward.h"
#include "kernels/cuda/attention_tile_forward.h"
#include "kernels/cuda/rope_ops.h"

namespace rwkv::cuda {

template <class T>
bool attention_on_tensor_cores(const AttentionInput& in) {
  return std::is_same_v<T, Bf16> && (in.q.shape[3] == 64 || in.q.shape[3] == 128);
}

template <class T>
struct AttentionForwardOp {
  static void run(const Stream& stream, const AttentionForward& op) {
    if (attention_on_tensor_cores<T>(op.in)) {
      return op.y.shape[3] == 64 ? attention_tiles_forward<64>(stream, op)
                                 : attention_tiles_forward<128>(stream, op);
    }
    launch_warps(
        stream, op.lse.elements(),
        AttentionForwardKernel<T>{AttentionRows<T>(op.in), out<T>(op.y), out<float>(op.lse)});
  }
};

template <class T>
struct AttentionBackwardOp {
  static void run(const Stream& stream, const AttentionBackward& op) {
    const AttentionRows<T> rows(op.in);
    const int64_t queries = op.lse.elements();
    launch_warps(
        stream, queries,
        AttentionDelta<T>{in<T>(op.y), in<T>(op.dy), out<float>(op.delta), queries, op.y.shape[3]});
    if (attention_on_tensor_cores<T>(op.in)) {
      return op.y.shape[3] == 64 ? attention_tiles_backward<64>(stream, op)
                                 : attention_tiles_backward<128>(stream, op);
    }
    const auto *lse = in<float>(op.lse), *delta = in<float>(op.delta);
    launch_warps(stream, queries,
                 AttentionQueryBack<T>{rows, in<T>(op.dy), lse, delta, out<T>(op.dq)});
    launch_warps(stream, rows.of.batch * rows.of.rows() * rows.of.key_heads,
                 AttentionKeyBack<T>{rows, in<T>(op.dy), lse, delta,
                                     KeyGradients<T>(op.dk_right, op.dk_left, op.dk),
                                     KeyGradients<T>(op.dv_right, op.dv_left, op.dv)});
  }
};

}  // namespace rwkv::cuda
