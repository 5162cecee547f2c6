// Maps of tiles of the WKV-7 recurrence, and folds over them.
#pragma once

#include "kernels/cpu/isa/wkv7_state.h"

namespace rwkv::cpu::RWKV_ISA {

// out = s M + add, or s M^T + add when transposed: in key-major rows, out[j] = add[j] + sum over l
// of M^T[j][l] s[l]. `out` is neither s nor add.
template <int Q, bool transposed>
[[gnu::always_inline]] inline void fold(int n, const v16* s, const v16* m, const v16* add,
                                        v16* out) {
  const auto* map = reinterpret_cast<const float*>(m);
  for (int j = 0; j < n; ++j) {
    v16 even[Q], odd[Q];
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      even[q] = add[j * Q + q];
      odd[q] = v16{};
    }
    for (int l = 0; l < n; l += 2) {
      const float m0 = transposed ? map[l * 16 * Q + j] : map[j * 16 * Q + l];
      const float m1 = transposed ? map[(l + 1) * 16 * Q + j] : map[j * 16 * Q + l + 1];
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) {
        even[q] += s[l * Q + q] * m0;
        odd[q] += s[(l + 1) * Q + q] * m1;
      }
    }
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) out[j * Q + q] = even[q] + odd[q];
  }
}

// The state after tokens [first, end) from the zero state: B.
template <class T, int Q>
[[gnu::always_inline]] inline void run_from_zero(const Wkv7Sequence& in, const Wkv7Sizes& sizes,
                                                 int64_t bh, int64_t first, int64_t end,
                                                 v16* state) {
  const auto n = static_cast<int>(sizes.n);
  TokenRow<Q> x;
  set_zero<Q>(n, state);
  for (int64_t t = first; t < end; ++t) {
    if (sizes.starts(in, bh, t)) set_zero<Q>(n, state);
    x.template read<T>(in, sizes.at(bh, t), n);
    v16 removed[Q], y[Q];
    apply_state<Q>(n, state, x.a, removed);
    advance<Q, false>(n, state, state, x, removed, y);
  }
}

// The same from the identity, without values: M.
template <class T, int Q>
[[gnu::always_inline]] inline void run_from_identity(const Wkv7Sequence& in, const Wkv7Sizes& sizes,
                                                     int64_t bh, int64_t first, int64_t end,
                                                     v16* state) {
  const auto n = static_cast<int>(sizes.n);
  set_zero<Q>(n, state);
  for (int64_t t = first; t < end; ++t) {
    if (sizes.starts(in, bh, t)) return;  // nothing passes through
  }
  for (int j = 0; j < n; ++j) state[j * Q + j / 16][j % 16] = 1;
  TokenRow<Q> x;
  for (int64_t t = first; t < end; ++t) {
    x.template read<T>(in, sizes.at(bh, t), n);
    v16 removed[Q];
    apply_state<Q>(n, state, x.a, removed);
    for (int j = 0; j < n; ++j) {
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) {
        state[j * Q + q] = state[j * Q + q] * x.w[j] + removed[q] * x.b[j];
      }
    }
  }
}

// The gradient of the state before token `first` that tokens [first, end) cause by their own
// outputs: C.
template <class T, int Q>
[[gnu::always_inline]] inline void run_adjoint(const Wkv7MapBackward& op, const Wkv7Sizes& sizes,
                                               int64_t bh, int64_t first, int64_t end,
                                               v16* adjoint) {
  const auto n = static_cast<int>(sizes.n);
  TokenRow<Q> x;
  set_zero<Q>(n, adjoint);
  for (int64_t t = end - 1; t >= first; --t) {
    const int64_t at = sizes.at(bh, t);
    x.template read<T>(op.in, at, n);
    v16 dy[Q], q_sum[Q];
    read_vectors<T, Q>(op.dy.as<T>() + at, n, dy);
    add_output<Q>(n, adjoint, x, dy, q_sum);
    if (sizes.starts(op.in, bh, t)) {
      set_zero<Q>(n, adjoint);
      continue;
    }
    for (int j = 0; j < n; ++j) {
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) {
        adjoint[j * Q + q] = adjoint[j * Q + q] * x.w[j] + q_sum[q] * x.a[j];
      }
    }
  }
}

// Calls body<Q>(tile, bh, entry) for every head of tiles [op.first, op.end).
template <class Op, class Body>
struct TilesBody {
  const Stream& stream;
  const Op& op;
  const Body& body;
  template <int Q>
  void run() const {
    const Wkv7Sizes sizes(op.in);
    const int64_t all = sizes.batch * sizes.heads;
    for_blocks(stream, (op.end - op.first) * all, 1, [&](int64_t i, int64_t) {
      const int64_t entry = op.first * all + i;
      body.template run<Q>(op, sizes, entry / all, entry % all, entry * sizes.n * 16 * Q);
    });
  }
};

template <class T>
struct MapOfHead {
  template <int Q>
  void run(const Wkv7Map& op, const Wkv7Sizes& sizes, int64_t tile, int64_t bh, int64_t to) const {
    const int64_t first = tile * sizes.tile;
    const int64_t end = sizes.tile_end(tile) < sizes.handed ? sizes.tile_end(tile) : sizes.handed;
    v16 state[16 * Q * Q];
    run_from_identity<T, Q>(op.in, sizes, bh, first, end, state);
    copy_state<Q>(static_cast<int>(sizes.n), state, op.m.as<float>() + to);
    run_from_zero<T, Q>(op.in, sizes, bh, first, end, state);
    copy_state<Q>(static_cast<int>(sizes.n), state, op.b.as<float>() + to);
  }
};

template <class T>
struct AdjointOfHead {
  template <int Q>
  void run(const Wkv7MapBackward& op, const Wkv7Sizes& sizes, int64_t tile, int64_t bh,
           int64_t to) const {
    v16 adjoint[16 * Q * Q];
    run_adjoint<T, Q>(op, sizes, bh, tile * sizes.tile, sizes.tile_end(tile), adjoint);
    copy_state<Q>(static_cast<int>(sizes.n), adjoint, op.c.as<float>() + to);
  }
};

template <class T>
void wkv7_map(const Stream& stream, const Wkv7Map& op) {
  by_head_size(op.in.k.shape[3], TilesBody<Wkv7Map, MapOfHead<T>>{stream, op, {}});
}

template <class T>
void wkv7_map_backward(const Stream& stream, const Wkv7MapBackward& op) {
  by_head_size(op.in.r.shape[3], TilesBody<Wkv7MapBackward, AdjointOfHead<T>>{stream, op, {}});
}

struct FoldBody {
  const Stream& stream;
  const Wkv7Fold& op;
  template <int Q>
  void run() const {
    const int64_t heads = op.out.shape[0] * op.out.shape[1];
    const auto n = static_cast<int>(op.out.shape[2]);
    for_blocks(stream, heads, 1, [&](int64_t bh, int64_t) {
      v16 state[16 * Q * Q], next[16 * Q * Q];
      load_state<Q>(op.from, bh, n, state);
      for (int64_t i = 0; i < op.end - op.first; ++i) {
        const int64_t tile = op.transposed ? op.end - 1 - i : op.first + i;
        const int64_t entry = tile * heads + bh;
        const v16 *m = map_of<Q>(op.m, entry, n), *add = map_of<Q>(op.add, entry, n);
        if (i == 0 && op.from.empty()) {  // 0 M + add
          copy_state<Q>(n, add, state);
          continue;
        }
        op.transposed ? fold<Q, true>(n, state, m, add, next)
                      : fold<Q, false>(n, state, m, add, next);
        copy_state<Q>(n, next, state);
      }
      from_key_major<Q>(n, state, op.out.as<float>() + bh * n * n);
    });
  }
};

inline void wkv7_fold(const Stream& stream, const Wkv7Fold& op) {
  by_head_size(op.out.shape[2], FoldBody{stream, op});
}

}  // namespace rwkv::cpu::RWKV_ISA
