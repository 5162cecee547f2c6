// Products by tiles in shared memory: for the emulator, and where the library has no algorithm.
// Sums run over k in order, whatever the tiles: the same bits for any number of rows.
#pragma once

#include "kernels/cuda/leaf_products.h"
#include "kernels/cuda/token_sums.h"
#include "kernels/matmul.h"

namespace rwkv::cuda {

inline constexpr int kTile = 16;  // a block has a thread an element of its tile of c

// Tiles of both operands, and where this thread stands.
struct ProductTile {
  float *left, *right;
  int row, column;
  RWKV_DEVICE ProductTile()
      : left(reinterpret_cast<float*>(device::shared_memory())),
        right(left + kTile * kTile),
        row(thread_index() / kTile),
        column(thread_index() % kTile) {}
  static constexpr int64_t kBytes = 2 * kTile * kTile * 4;

  RWKV_DEVICE float multiply(float sum) const {
    for (int l = 0; l < kTile; ++l) sum += left[row * kTile + l] * right[l * kTile + column];
    return sum;
  }
};

template <class T, class C>
struct MatmulKernel {
  const T *a, *b;
  C* c;
  const C* add;  // nullptr: nothing
  int64_t m, n, k;
  bool trans_a, trans_b;
  int64_t a_row;  // elements from one row of a, as it is stored, to the next

  RWKV_DEVICE void operator()() const {
    const ProductTile tile;
    const int64_t across = (n + kTile - 1) / kTile;
    const int64_t i = block_index() / across * kTile + tile.row;
    const int64_t j = block_index() % across * kTile + tile.column;
    float sum = 0;
    for (int64_t first = 0; first < k; first += kTile) {
      const int64_t la = first + tile.column, lb = first + tile.row;
      device::sync_block();
      tile.left[thread_index()] =
          i < m && la < k ? load(a + (trans_a ? la * a_row + i : i * a_row + la)) : 0;
      tile.right[thread_index()] =
          lb < k && j < n ? load(b + (trans_b ? j * k + lb : lb * n + j)) : 0;
      device::sync_block();
      sum = tile.multiply(sum);
    }
    if (i >= m || j >= n) return;
    store(c + i * n + j, add == nullptr ? sum : load(add + i * n + j) + sum);
  }
};

inline int64_t tiles_of(int64_t rows, int64_t columns) {
  return (rows + kTile - 1) / kTile * ((columns + kTile - 1) / kTile);
}

template <class T, class C>
void matmul_to(const Stream& stream, const Matmul& op) {
  const int64_t m = op.c.shape[0], n = op.c.shape[1];
  const int64_t k = op.trans_a ? op.a.shape[0] : op.a.shape[1];
  const C* add = op.beta == 0 ? nullptr : in<C>(op.add.empty() ? ConstTensor(op.c) : op.add);
  device::launch(stream, {tiles_of(m, n), kTile * kTile, ProductTile::kBytes},
                 MatmulKernel<T, C>{in<T>(op.a), in<T>(op.b), out<C>(op.c), add, m, n, k,
                                    op.trans_a, op.trans_b, op.trans_a ? m : k});
}
template <class T>
struct MatmulOp {
  static void run(const Stream& stream, const Matmul& op) {
    op.c.dtype == DType::kF32 ? matmul_to<T, float>(stream, op) : matmul_to<T, T>(stream, op);
  }
};

template <class T>
struct WeightGradientKernel {
  const T *left, *right;
  PartialSum to;
  LeafRows leaves;
  int64_t m, n;

  RWKV_DEVICE void operator()() const {
    const ProductTile tile;
    const int64_t across = (n + kTile - 1) / kTile;
    const int64_t i = block_index() / across * kTile, j = block_index() % across * kTile;
    for (int64_t begin = 0; begin < leaves.rows;) {
      const int64_t end = leaves.end(begin);
      float sum = 0;
      for (int64_t first = begin; first < end; first += kTile) {
        const int64_t rl = first + tile.column, rr = first + tile.row;
        device::sync_block();
        tile.left[thread_index()] =
            rl < end && i + tile.row < m ? load(left + rl * m + i + tile.row) : 0;
        tile.right[thread_index()] =
            rr < end && j + tile.column < n ? load(right + rr * n + j + tile.column) : 0;
        device::sync_block();
        sum = tile.multiply(sum);
      }
      if (i + tile.row < m && j + tile.column < n) {
        to.add((i + tile.row) * n + j + tile.column, sum);
      }
      begin = end;
    }
  }
};

// Adds the products of some leaves to a gradient in fixed point, leaf by leaf.
struct AddLeaves {
  const float* partial;
  int64_t count, elements;  // leaves, and elements of each
  PartialSum to;
  int64_t first;  // where the elements begin in the gradient

  RWKV_DEVICE void operator()() const {
    const int64_t i = block_index() * device::thread_count() + thread_index();
    uint32_t largest = 0;
    if (i < elements) {
      int64_t sum = 0;
      for (int64_t leaf = 0; leaf < count; ++leaf) {
        const float p = partial[leaf * elements + i];
        const uint32_t magnitude = float_to_bits(p) & 0x7fffffffu;
        sum += to.units(p);
        largest = magnitude > largest ? magnitude : largest;
      }
      to.fixed[first + i] += sum;
    }
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const uint32_t other = device::warp_xor_bits(largest, mask);
      largest = other > largest ? other : largest;
    }
    if (thread_index() % kWarp == 0) to.raise_peak(largest);
  }
};

// A gradient in fixed point: leaves become partials in scratch, in calls whose shape depends on the
// weight and the leaf alone, and these are added. product(stream, LeafProducts) makes them;
// `workspace`: bytes of the scratch that it needs for itself.
template <class Product>
void weight_gradient_by_leaves(const Stream& stream, const WeightGradient& op, int64_t workspace,
                               const Product& product) {
  constexpr int64_t kRoom = device::kLeafRoom;
  const int64_t rows = op.left.shape[0], m = op.left.shape[1], n = op.right.shape[1];
  const int64_t fitting = kRoom / (n * 4), lines = fitting < 16 ? 16 : fitting / 16 * 16;
  const int64_t slice = lines < m ? lines : m;
  for (int64_t first = 0; first < rows;) {
    const int64_t size = op.leaves.end(first, rows) - first;
    int64_t count = op.leaves.alike(first, rows);
    const int64_t most = fitting < slice ? 1 : kRoom / (slice * n * 4);
    if (count > most) count = most;
    for (int64_t begin = 0; begin < m; begin += slice) {
      const int64_t end = begin + slice < m ? begin + slice : m, elements = (end - begin) * n;
      std::byte* scratch = device::scratch(stream, workspace + count * elements * 4) + workspace;
      auto* partial = reinterpret_cast<float*>(scratch);
      const int64_t behind = first + count * size;
      product(stream, LeafProducts{op.left.rows(first, behind), op.right.rows(first, behind), count,
                                   begin, end, partial});
      device::launch(stream, {(elements + kThreads - 1) / kThreads, kThreads, 0},
                     AddLeaves{partial, count, elements, PartialSum(op.to), begin * n});
    }
    first += count * size;
  }
}

template <class T>
void leaf_products(const Stream& stream, const LeafProducts& op) {
  const int64_t m = op.end - op.begin, n = op.right.shape[1], rows = op.left.shape[0] / op.count;
  const int64_t width = op.left.shape[1];
  for (int64_t leaf = 0; leaf < op.count; ++leaf) {
    const T* left = in<T>(op.left) + leaf * rows * width + op.begin;
    const T* right = in<T>(op.right) + leaf * rows * n;
    device::launch(stream, {tiles_of(m, n), kTile * kTile, ProductTile::kBytes},
                   MatmulKernel<T, float>{left, right, op.to + leaf * m * n, nullptr, m, n, rows,
                                          true, false, width});
  }
}

template <class T>
struct WeightGradientOp {
  static void run(const Stream& stream, const WeightGradient& op) {
    if (op.to.fixed()) return weight_gradient_by_leaves(stream, op, 0, leaf_products<T>);
    const int64_t m = op.left.shape[1], n = op.right.shape[1];
    device::launch(stream, {tiles_of(m, n), kTile * kTile, ProductTile::kBytes},
                   WeightGradientKernel<T>{in<T>(op.left), in<T>(op.right), PartialSum(op.to),
                                           LeafRows(op.leaves, op.left.shape[0]), m, n});
  }
};

}  // namespace rwkv::cuda
