// What a warp does as one, with the layouts of PTX.
#include <array>
#include <cstring>

#include "kernels/cuda/device.h"

namespace rwkv::device {
namespace {

constexpr int kLanes = 32;
int own_lane() { return thread_index() % kLanes; }

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
uint32_t half_of(uint32_t pair, int which) { return which == 0 ? pair & 0xffffu : pair >> 16; }
float bf16_of(uint32_t pair, int which) { return float_of(half_of(pair, which) << 16); }

// Row `row` of the 8 x 8 matrix `m`, two elements from column 2 `pair`.
uint32_t element_pair(const Shown* shown, int m, int row, int pair) {
  return shown[8 * m + row].words[pair];
}

const Shown* show_row(const std::byte* row) {
  Shown mine{};
  std::memcpy(mine.words, row, 16);
  return meet(mine);
}

}  // namespace

float warp_read(float value, int lane) {
  return float_of(meet({{bits_of(value)}})[lane % kLanes].words[0]);
}
float warp_xor(float value, int mask) { return warp_read(value, own_lane() ^ mask); }
uint32_t warp_ballot(bool vote) {
  const Shown* shown = meet({{vote ? 1u : 0u}});
  uint32_t votes = 0;
  for (int lane = 0; lane < kLanes; ++lane) votes |= shown[lane].words[0] << lane;
  return votes;
}
uint32_t warp_xor_bits(uint32_t value, int mask) {
  return meet({{value}})[own_lane() ^ mask].words[0];
}
void sync_warp() { meet({}, true); }

// Thread l: row l / 4 and that + 8 of a and sum, column l / 4 of b.
void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Shown* shown = meet({{a[0], a[1], a[2], a[3], b0, b1}});
  for (int i = 0; i < 4; ++i) {
    const int row = own_lane() / 4, column = own_lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const uint32_t left = shown[row * 4 + k % 8 / 2].words[i / 2 + k / 8 * 2];
      const uint32_t right = shown[column * 4 + k % 8 / 2].words[4 + k / 8];
      sum[i] += bf16_of(left, k % 2) * bf16_of(right, k % 2);
    }
  }
}

void load_matrices(const std::byte* matrix, int row, uint32_t (&x)[4]) {
  const Shown* shown = show_row(matrix + row);
  for (int m = 0; m < 4; ++m) x[m] = element_pair(shown, m, own_lane() / 4, own_lane() % 4);
}
uint32_t transpose_matrix(uint32_t x) {
  const Shown* shown = meet({{x}});
  const int column = own_lane() / 4, first = own_lane() % 4 * 2;
  const auto element = [&](int row) {
    return half_of(shown[row * 4 + column / 2].words[0], column % 2);
  };
  return element(first) | element(first + 1) << 16;
}
void load_matrices_transposed(const std::byte* matrix, int row, uint32_t (&x)[4]) {
  const Shown* shown = show_row(matrix + row);
  const int column = own_lane() / 4, first = own_lane() % 4 * 2;
  for (int m = 0; m < 4; ++m) {
    const uint32_t low = element_pair(shown, m, first, column / 2);
    const uint32_t high = element_pair(shown, m, first + 1, column / 2);
    x[m] = half_of(low, column % 2) | half_of(high, column % 2) << 16;
  }
}

}  // namespace rwkv::device
