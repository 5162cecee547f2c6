// Sums over tokens: the gradient of a parameter, leaf by leaf (kernels/token_sum.h).
//
// In two steps, so that there is work for a whole GPU and the order of a sum is fixed without
// atomics: rows are cut in slabs that keep to leaves, a block sums the rows of its slab for its
// columns, and then the slabs of each leaf are added in order.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/token_sum.h"

namespace rwkv::cuda {

struct RowRange {
  int64_t begin, end;
};

// Rows as slabs. Under leaves, all slabs are kLeafSlab rows from the leaf's start, so that a leaf's
// sum does not depend on what else the pass holds.
struct Slabs {
  static constexpr int64_t kLeafSlab = 32, kMost = 512;

  int64_t rows, tokens, leaf, first;  // leaf: 0: all rows are one
  int64_t a_sequence, first_leaf;     // leaves of a sequence; the number of row 0's leaf in its own
  int64_t leaves, size, a_leaf;       // leaves; rows of a slab; slabs of a leaf
  int64_t skipped = 0;                // slabs before these; leaves and a_leaf are of what is here

  constexpr Slabs(const Leaves& of, int64_t all)
      : rows(all), tokens(of.tokens), leaf(of.leaf), first(of.first) {
    size = kLeafSlab;
    if (leaf == 0) {
      while ((rows + size - 1) / size > kMost) size *= 2;
      a_sequence = leaves = 1;
      first_leaf = 0;
      a_leaf = (rows + size - 1) / size;
      return;
    }
    a_sequence = (tokens + leaf - 1) / leaf;
    first_leaf = first / leaf;
    const int64_t last = first + rows - 1;  // counted from the sequence that row 0 belongs to
    leaves = last / tokens * a_sequence + last % tokens / leaf - first_leaf + 1;
    a_leaf = ((leaf < tokens ? leaf : tokens) + size - 1) / size;
  }

  int64_t count() const { return leaves * a_leaf; }
  // `some` slabs from `begin` on; under leaves whole ones.
  Slabs part(int64_t begin, int64_t some) const {
    Slabs of = *this;
    of.skipped = skipped + begin;
    if (leaf == 0) {
      of.a_leaf = some;
    } else {
      of.leaves = some / a_leaf;
    }
    return of;
  }
  RowRange all_rows() const { return {of_slab(0).begin, of_slab(count() - 1).end}; }
  // Empty for the missing slabs of a short leaf. On the host and on the device.
  constexpr RowRange of_slab(int64_t slab) const {
    slab += skipped;
    int64_t begin = 0, end = rows;
    if (leaf != 0) {
      const int64_t number = slab / a_leaf + first_leaf;
      const int64_t sequence = number / a_sequence * tokens - first;
      begin = sequence + number % a_sequence * leaf;
      const int64_t leaf_end = begin + leaf, sequence_end = sequence + tokens;
      end = leaf_end < sequence_end ? leaf_end : sequence_end;
      if (end > rows) end = rows;
    }
    begin += (leaf == 0 ? slab : slab % a_leaf) * size;
    if (begin > end) begin = end;
    return {begin, begin + size < end ? begin + size : end};
  }
};

// Calls run(slabs) for as many slabs at a time as the stream has scratch for.
template <class Run>
void by_room(const Stream& stream, const Slabs& all, int64_t bytes_a_slab, const Run& run) {
  const int64_t unit = all.leaf == 0 ? 1 : all.a_leaf;
  const int64_t units = device::room(stream) / (unit * bytes_a_slab + 8);
  const int64_t step = (units < 1 ? 1 : units) * unit;
  for (int64_t begin = 0; begin < all.count(); begin += step) {
    const int64_t left = all.count() - begin;
    run(all.part(begin, left < step ? left : step));
  }
}

// Leaves one after the other, for a kernel whose threads take all rows.
struct LeafRows {
  int64_t tokens, leaf, first, rows;

  LeafRows(const Leaves& leaves, int64_t all)
      : tokens(leaves.tokens), leaf(leaves.leaf), first(leaves.first), rows(all) {}
  RWKV_DEVICE int64_t end(int64_t r) const {
    if (leaf == 0) return rows;
    const int64_t at = (first + r) % tokens;
    const int64_t in_leaf = leaf - at % leaf, in_sequence = tokens - at;
    const int64_t next = r + (in_leaf < in_sequence ? in_leaf : in_sequence);
    return next < rows ? next : rows;
  }
};

// Where partials go. Fixed point adds integers; floats are added by one thread an element.
struct PartialSum {
  float* floats = nullptr;
  int64_t *fixed = nullptr, *peak = nullptr;
  double scale = 0;

  PartialSum() = default;
  explicit PartialSum(const TokenSum& to)
      : floats(to.fixed() ? nullptr : out<float>(to.sum)),
        fixed(to.fixed() ? out<int64_t>(to.sum) : nullptr),
        peak(to.fixed() ? out<int64_t>(to.peak) : nullptr),
        scale(to.scale) {}

  RWKV_DEVICE void add(int64_t i, float partial) const {
    if (fixed == nullptr) {
      if (floats != nullptr) floats[i] += partial;
      return;
    }
    fixed[i] += units(partial);
    raise_peak(float_to_bits(partial));
  }
  RWKV_DEVICE int64_t units(float partial) const {
    const double p = partial;
    union {
      double d;
      int64_t bits;
    } shifted{p * scale + 6755399441055744.0}, magic{6755399441055744.0};
    return shifted.bits - magic.bits;
  }
  // Of a float's bits, whatever its sign.
  RWKV_DEVICE void raise_peak(uint32_t bits) const {
    union {
      double d;
      int64_t bits;
    } magnitude{bits_to_float(bits & 0x7fffffffu)};
    device::raise_max(peak, magnitude.bits);
  }
};

// The partials of up to `kMostSums` gradients of `width` elements each: (sum, slab, column) f32.
struct SlabSums {
  static constexpr int kMostSums = 8;
  float* partial;
  int64_t slabs, width;

  // bytes_behind: of the op's own, behind them.
  SlabSums(const Stream& stream, const Slabs& of, int64_t columns, int sums,
           int64_t bytes_behind = 0)
      : slabs(of.count()), width(columns) {
    const int64_t bytes = (sums * slabs * width + 1) / 2 * 8 + bytes_behind;
    partial = reinterpret_cast<float*>(device::scratch(stream, bytes));
  }
  float* behind(int sums) const { return partial + (sums * slabs * width + 1) / 2 * 2; }
  static int64_t bytes_a_slab(int64_t columns, int sums) { return sums * columns * 4; }
  // A thread's: of K columns from `column`.
  template <int kSums, int K>
  RWKV_DEVICE void put(int64_t slab, int64_t column, const float (&sum)[kSums][K]) const {
    for (int s = 0; s < kSums; ++s) {
      store_run(partial + (s * slabs + slab) * width + column, sum[s]);
    }
  }
};

// A block has kColumns columns and kShare threads for each, which share out a leaf's slabs.
struct AddSlabs {
  static constexpr int kColumns = 32, kShare = 8;

  const float* partial;
  int64_t leaves, a_leaf, width;
  PartialSum to[SlabSums::kMostSums];

  RWKV_DEVICE void operator()() const {
    auto* sums = reinterpret_cast<float*>(device::shared_memory());
    const int64_t across = (width + kColumns - 1) / kColumns;
    const int64_t which = block_index() / across;
    const int column = thread_index() % kColumns, share = thread_index() / kColumns;
    const int64_t c = block_index() % across * kColumns + column;
    for (int64_t leaf = 0; leaf < leaves; ++leaf) {
      const float* from = partial + (which * leaves + leaf) * a_leaf * width + c;
      float sum = 0;
      if (c < width) {
        for (int64_t s = share; s < a_leaf; s += kShare) sum += from[s * width];
      }
      device::sync_block();
      sums[thread_index()] = sum;
      device::sync_block();
      if (share != 0 || c >= width) continue;
      for (int s = 1; s < kShare; ++s) sum += sums[s * kColumns + column];
      to[which].add(c, sum);
    }
  }
};

// After the kernel that has put the partials.
template <int kSums>
void add_slabs(const Stream& stream, const Slabs& slabs, const SlabSums& sums,
               const PartialSum (&to)[kSums]) {
  static_assert(kSums <= SlabSums::kMostSums);
  AddSlabs kernel{sums.partial, slabs.leaves, slabs.a_leaf, sums.width, {}};
  for (int i = 0; i < kSums; ++i) kernel.to[i] = to[i];
  const int64_t across = (sums.width + AddSlabs::kColumns - 1) / AddSlabs::kColumns;
  constexpr int kThreadsOfSums = AddSlabs::kColumns * AddSlabs::kShare;
  device::launch(stream, {kSums * across, kThreadsOfSums, kThreadsOfSums * 4}, kernel);
}

}  // namespace rwkv::cuda
