// Matrices of bf16 in shared memory and, 16 x 16 at a time, spread over the threads of a warp for
// mma.m16n8k16; their sums are float.
#pragma once

#include "kernels/cuda/device.h"

namespace rwkv::cuda {

struct alignas(8) Words2 {
  uint32_t x[2];
};
struct alignas(16) Words4 {
  uint32_t x[4];
};
struct alignas(16) Floats4 {
  float x[4];
};

template <class T>
RWKV_DEVICE T& as(std::byte* p) {
  return *reinterpret_cast<T*>(p);
}
template <class T>
RWKV_DEVICE const T& as(const std::byte* p) {
  return *reinterpret_cast<const T*>(p);
}

// Of a 16 x 16 block a thread has rows own_row() and that + 8; own_column(), the one beside it, and
// both + 8.
RWKV_DEVICE int own_row() { return lane_index() / 4; }
RWKV_DEVICE int own_column() { return lane_index() % 4 * 2; }

// Four warps share 64 rows or columns: where the 16 of the thread's warp begin.
inline constexpr int kTeamWarps = 4;
RWKV_DEVICE int team_warp() { return warp_index() % kTeamWarps; }
RWKV_DEVICE int own_band() { return 16 * team_warp(); }

// Layouts in shared memory: bytes from the start to an element; and to the same element of a block
// whose corner is at multiples of 16, from that of the first block. Rows have such lengths that 8
// pieces of 16 bytes, one of each of 8 rows, lie in all banks.

// Rows of 64 bf16.
struct Rows64 {
  static constexpr int kRowBytes = 144;
  RWKV_DEVICE static int offset(int row, int column) { return row * kRowBytes + column * 2; }
  RWKV_DEVICE static int block(int row, int column) { return offset(row, column); }
};
// Rows of 16 bf16: the halves of every other four rows trade places.
struct Rows16 {
  static constexpr int kRowBytes = 32;
  RWKV_DEVICE static int offset(int row, int column) {
    return row * kRowBytes + ((column / 8) ^ (row / 4 % 2)) * 16 + column % 8 * 2;
  }
  RWKV_DEVICE static int block(int row, int) { return row * kRowBytes; }
};
// Blocks of 8 x 8 bf16, eight in a row: what a warp writes of a fragment is contiguous.
struct Blocks64 {
  static constexpr int kRowBytes = 128;
  RWKV_DEVICE static int offset(int row, int column) {
    return row / 8 * 1024 + column / 8 * 128 + row % 8 * 16 + column % 8 * 2;
  }
  RWKV_DEVICE static int block(int row, int column) { return row * kRowBytes + column * 16; }
};
// Rows of 64 floats.
struct Floats64 {
  static constexpr int kRowBytes = 288;
  RWKV_DEVICE static int offset(int row, int column) { return row * kRowBytes + column * 4; }
};

// A 16 x 16 matrix, two neighbours of a row in a word: x[0] of own_row(), own_column(); x[1] 8 rows
// on; x[2], x[3] the same 8 columns on.
struct Fragment {
  uint32_t x[4];
};
// The same as right operand of a product: x[1] and x[2] have traded places, so that the two words
// that an mma takes of it are neighbours in registers and need not be moved there.
struct RightFragment {
  uint32_t x[4];
};
RWKV_DEVICE RightFragment right(const Fragment& f) { return {{f.x[0], f.x[2], f.x[1], f.x[3]}}; }
// The same in float: c[n][2 h + e] of row own_row() + 8 h, column own_column() + 8 n + e.
struct Sums {
  float c[2][4];
};

RWKV_DEVICE Sums zero_sums() { return {{{0, 0, 0, 0}, {0, 0, 0, 0}}}; }
RWKV_DEVICE Fragment rounded(const Sums& s) {
  return {{device::pack_bf16(s.c[0][0], s.c[0][1]), device::pack_bf16(s.c[0][2], s.c[0][3]),
           device::pack_bf16(s.c[1][0], s.c[1][1]), device::pack_bf16(s.c[1][2], s.c[1][3])}};
}
RWKV_DEVICE Fragment transposed(const Fragment& f) {
  return {{device::transpose_matrix(f.x[0]), device::transpose_matrix(f.x[2]),
           device::transpose_matrix(f.x[1]), device::transpose_matrix(f.x[3])}};
}
RWKV_DEVICE float low_half(uint32_t pair) { return first_of<Bf16>(pair); }
RWKV_DEVICE float high_half(uint32_t pair) { return second_of<Bf16>(pair); }

// sums += a b^T.
RWKV_DEVICE void add_product(Sums& sums, const Fragment& a, const RightFragment& b) {
  device::mma_bf16(sums.c[0], a.x, b.x[0], b.x[1]);
  device::mma_bf16(sums.c[1], a.x, b.x[2], b.x[3]);
}

// Where the row begins that a thread names for the four 8 x 8 matrices of the block whose corner is
// at (row, column): one below the other first, or one beside the other.
template <class Layout>
RWKV_DEVICE int down_first(int row, int column) {
  const int lane = lane_index();
  return Layout::offset(lane % 8 + lane / 8 % 2 * 8, lane / 16 * 8) + Layout::block(row, column);
}
template <class Layout>
RWKV_DEVICE int across_first(int row, int column) {
  const int lane = lane_index();
  return Layout::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2 * 8) + Layout::block(row, column);
}
// The block, or its transpose.
template <class Layout>
RWKV_DEVICE Fragment load_block(const std::byte* matrix, int row = 0, int column = 0) {
  Fragment f;
  device::load_matrices(matrix, down_first<Layout>(row, column), f.x);
  return f;
}
template <class Layout>
RWKV_DEVICE Fragment load_transposed(const std::byte* matrix, int row = 0, int column = 0) {
  Fragment f;
  device::load_matrices_transposed(matrix, across_first<Layout>(row, column), f.x);
  return f;
}
template <class Layout>
RWKV_DEVICE RightFragment load_right(const std::byte* matrix, int row = 0, int column = 0) {
  RightFragment f;
  device::load_matrices(matrix, across_first<Layout>(row, column), f.x);
  return f;
}
template <class Layout>
RWKV_DEVICE RightFragment load_right_transposed(const std::byte* matrix, int row = 0,
                                                int column = 0) {
  RightFragment f;
  device::load_matrices_transposed(matrix, down_first<Layout>(row, column), f.x);
  return f;
}
template <class Layout>
RWKV_DEVICE void store_block(std::byte* matrix, int row, int column, const Fragment& f) {
  RWKV_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int element = Layout::offset(own_row() + i % 2 * 8, own_column() + i / 2 * 8);
    as<uint32_t>(matrix + element + Layout::block(row, column)) = f.x[i];
  }
}
// A thread's own elements without ldmatrix: no other thread is asked.
template <class Layout>
RWKV_DEVICE Fragment read_own(const std::byte* matrix, int row, int column) {
  Fragment f;
  RWKV_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int element = Layout::offset(own_row() + i % 2 * 8, own_column() + i / 2 * 8);
    f.x[i] = as<uint32_t>(matrix + element + Layout::block(row, column));
  }
  return f;
}

// Rows or columns whose bits are set; zeros for the others.
RWKV_DEVICE void keep_rows(Sums& s, uint32_t bits) {
  RWKV_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int n = i / 4, h = i / 2 % 2, e = i % 2;
    if ((bits >> (own_row() + 8 * h)) % 2 == 0) s.c[n][2 * h + e] = 0;
  }
}
RWKV_DEVICE void keep_columns(Sums& s, uint32_t bits) {
  RWKV_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int n = i / 4, h = i / 2 % 2, e = i % 2;
    if ((bits >> (own_column() + 8 * n + e)) % 2 == 0) s.c[n][2 * h + e] = 0;
  }
}
RWKV_DEVICE void keep_columns(Fragment& f, uint32_t bits) {
  RWKV_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t own = bits >> (own_column() + i / 2 * 8);
    f.x[i] &= (0u - own % 2) >> 16 | (0u - own / 2 % 2) << 16;
  }
}

RWKV_DEVICE Fragment rounded_sum(const Sums& s, const Fragment& f) {
  Sums all = s;
  RWKV_UNROLL
  for (int i = 0; i < 4; ++i) {
    all.c[i / 2][i % 2 * 2] += low_half(f.x[i]);
    all.c[i / 2][i % 2 * 2 + 1] += high_half(f.x[i]);
  }
  return rounded(all);
}

// A thread's own elements of rows of a 64 x 64 float matrix.
RWKV_DEVICE void read_state(const float* from, Sums (&state)[4]) {
  RWKV_UNROLL
  for (int i = 0; i < 16; ++i) {
    const int j = i / 4, n = i / 2 % 2, h = i % 2;
    const float* p = from == nullptr ? nullptr
                                     : from + (own_band() + own_row() + 8 * h) * 64 + 16 * j +
                                           8 * n + own_column();
    const Floats2 x = p == nullptr ? Floats2{{0, 0}} : *reinterpret_cast<const Floats2*>(p);
    state[j].c[n][2 * h] = x.x[0];
    state[j].c[n][2 * h + 1] = x.x[1];
  }
}
RWKV_DEVICE void add_state(const float* from, Sums (&state)[4]) {
  Sums other[4];
  read_state(from, other);
  RWKV_UNROLL
  for (int i = 0; i < 32; ++i) state[i / 8].c[i / 4 % 2][i % 4] += other[i / 8].c[i / 4 % 2][i % 4];
}
RWKV_DEVICE void write_state(const Sums (&state)[4], float* to) {
  RWKV_UNROLL
  for (int i = 0; i < 16; ++i) {
    const int j = i / 4, n = i / 2 % 2, h = i % 2;
    float* p = to + (own_band() + own_row() + 8 * h) * 64 + 16 * j + 8 * n + own_column();
    *reinterpret_cast<Floats2*>(p) = {{state[j].c[n][2 * h], state[j].c[n][2 * h + 1]}};
  }
}

}  // namespace rwkv::cuda
