// The gradients of a chunk's operands: the part of the backward pass that no other chunk waits for
// (wkv7_chunk_backward.h has the formulas). A warp has 16 columns.
#pragma once

#include "kernels/cuda/wkv7_chunk.h"

namespace rwkv::cuda {

// A chunk in shared memory.
struct ChunkSlot {
  std::byte scaled[kScaled * kTokensBytes];  // r, k, a, b until they are scaled in place
  std::byte gamma[kDecaysBytes];
  std::byte v[kTokensBytes], dy[kTokensBytes];
  std::byte state[kSquareBytes];
  uint32_t starts[kTeamWarps];  // for each warp
};
// What the step through the recurrence leaves of it.
struct ChunkStepped {
  std::byte u[kTokensBytes], dz[kTokensBytes];
  std::byte adjoint[kSquareBytes];  // G
};
// All tokens'.
struct ChunkOutputs {
  const Bf16* w_raw;
  const float *dbonus, *r_k;  // dbonus: nullptr: there is no bonus
  Bf16 *dr, *dk, *da, *db, *dw_raw;
};

// Blocks by all warps, a sync, then the rest; `start` may come before the sync. `fetch` comes
// first.
template <bool kPlain>
struct ChunkGradients {
  // What is read from memory, so long before it is needed that no warp waits for it.
  RWKV_DEVICE void fetch(const OwnTokens& tokens, const ChunkOutputs& to) {
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int row = own_row() + 8 * h;
      const bool there = row < tokens.count;
      dbonus[h] = there && to.dbonus != nullptr ? to.dbonus[tokens.head_at(row)] : 0;
      RWKV_UNROLL
      for (int n = 0; n < 2; ++n) {
        const Bf16* from = to.w_raw + tokens.at(there ? row : 0, 8 * n + own_column());
        w_raw[n][h] = *reinterpret_cast<const uint32_t*>(from);
      }
    }
  }

  // One of dA_ab, dA_ak, dA_rb, dA_rk by each warp, in the places of M, A_ak, A_rb, A_rk.
  RWKV_DEVICE static void make_blocks(const ChunkSlot& slot, const ChunkStepped& stepped,
                                      const Documents<kPlain>& documents, std::byte* dblocks) {
    const int block = team_warp();
    const bool of_r = block == kRb || block == kRk, with_k = block == kAk || block == kRk;
    const std::byte* left = of_r ? slot.dy : stepped.dz;
    const std::byte* right = with_k ? slot.v : stepped.u;
    Sums s = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      add_product(s, of_tokens(left, j), load_right<Rows64>(right, 0, 16 * j));
    }
    s = lower_triangle(s, of_r);
    documents.same(s);
    store_block<Rows16>(dblocks + block * kBlockBytes, 0, 0, rounded(s));
  }

  // What S and G give; the warp's columns.
  RWKV_DEVICE void start(const ChunkSlot& slot, const ChunkStepped& stepped,
                         const Documents<kPlain>& documents) {
    const int own = own_band();
    float columns[2] = {0, 0};  // of S G: own_row() and that + 8, this thread's part
    RWKV_UNROLL
    for (int i = 0; i < kScaled; ++i) of[i] = zero_sums();
    RWKV_UNROLL
    for (int j = 0; j < 4; ++j) {
      const RightFragment state = load_right_transposed<Blocks64>(slot.state, 16 * j, own);
      const RightFragment adjoint = load_right_transposed<Blocks64>(stepped.adjoint, 16 * j, own);
      add_product(of[kR], of_tokens(slot.dy, j), state);
      add_product(of[kA], of_tokens(stepped.dz, j), state);
      add_product(of[kK], of_tokens(slot.v, j), adjoint);
      add_product(of[kB], of_tokens(stepped.u, j), adjoint);
      RWKV_UNROLL
      for (int i = 0; i < 4; ++i) {
        columns[i / 2] += low_half(state.x[i]) * low_half(adjoint.x[i]) +
                          high_half(state.x[i]) * high_half(adjoint.x[i]);
      }
    }
    keep_own_documents(documents, columns);
    const Fragment k = read_own<Rows64>(slot.scaled + kK * kTokensBytes, 0, own);
    const Fragment b = read_own<Rows64>(slot.scaled + kB * kTokensBytes, 0, own);
    RWKV_UNROLL
    for (int h = 0; h < 2; ++h) {
      columns[h] += device::warp_xor(columns[h], 1);
      columns[h] += device::warp_xor(columns[h], 2);
    }
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int n = i / 2, e = i % 2;
      float sum = 0;
      RWKV_UNROLL
      for (int h = 0; h < 2; ++h) {
        sum +=
            half(k, n, h, e) * of[kK].c[n][2 * h + e] + half(b, n, h, e) * of[kB].c[n][2 * h + e];
      }
      for (int mask = 4; mask < kWarp; mask *= 2) sum += device::warp_xor(sum, mask);
      tail[i] = sum + device::warp_read(columns[n], (own_column() + e) * 4);
    }
  }

  // Once the blocks are there.
  RWKV_DEVICE void finish(const ChunkSlot& slot, const std::byte* dblocks, const float* w0,
                          const float* r_k, const OwnTokens& tokens, const ChunkOutputs& to) {
    const int own = own_band();
    const std::byte* scaled = slot.scaled;
    {
      const RightFragment k = load_right_transposed<Rows64>(scaled + kK * kTokensBytes, 0, own);
      const RightFragment b = load_right_transposed<Rows64>(scaled + kB * kTokensBytes, 0, own);
      add_product(of[kR], load_block<Rows16>(dblocks + kRk * kBlockBytes), k);
      add_product(of[kR], load_block<Rows16>(dblocks + kRb * kBlockBytes), b);
      add_product(of[kA], load_block<Rows16>(dblocks + kAk * kBlockBytes), k);
      add_product(of[kA], load_block<Rows16>(dblocks + kM * kBlockBytes), b);
    }
    {
      const RightFragment r = load_right_transposed<Rows64>(scaled + kR * kTokensBytes, 0, own);
      const RightFragment a = load_right_transposed<Rows64>(scaled + kA * kTokensBytes, 0, own);
      add_product(of[kK], load_transposed<Rows16>(dblocks + kRk * kBlockBytes), r);
      add_product(of[kK], load_transposed<Rows16>(dblocks + kAk * kBlockBytes), a);
      add_product(of[kB], load_transposed<Rows16>(dblocks + kRb * kBlockBytes), r);
      add_product(of[kB], load_transposed<Rows16>(dblocks + kM * kBlockBytes), a);
    }
    write_decay_gradient(scaled, w0 + own, tokens, to);
    if (to.dbonus != nullptr) add_bonus(scaled, r_k + own);
    unscale(slot.gamma);
    write_tokens(rounded(of[kR]), tokens, to.dr);
    write_tokens(rounded(of[kK]), tokens, to.dk);
    write_tokens(rounded(of[kA]), tokens, to.da);
    write_tokens(rounded(of[kB]), tokens, to.db);
  }

 private:
  Sums of[kScaled];      // of R~, K~, A~, B~
  float tail[4];         // what all tokens add to dlog w
  uint32_t w_raw[2][2];  // columns 8 n + own_column() of rows own_row() + 8 h: [n][h]
  float dbonus[2];       // of those rows

  RWKV_DEVICE static Fragment of_tokens(const std::byte* tokens, int j) {
    return load_block<Rows64>(tokens, 0, 16 * j);
  }

  RWKV_DEVICE void keep_own_documents(const Documents<kPlain>& tokens, float (&columns)[2]) {
    if (tokens.one()) return;
    tokens.first_rows(of[kR]);
    tokens.first_rows(of[kA]);
    tokens.last_rows(of[kK]);
    tokens.last_rows(of[kB]);
    columns[0] = columns[1] = 0;
  }

  // sigmoid (1 - sigmoid), to relative precision where one of them is nearly 1.
  RWKV_DEVICE static float sigmoid_slope(float x) {
    const float e = fast_exp(x < 0 ? x : -x), larger = device::fast_inverse(1 + e);
    return e * larger * larger;
  }
  RWKV_DEVICE static float half(const Fragment& f, int n, int h, int e) {
    return e == 0 ? low_half(f.x[2 * n + h]) : high_half(f.x[2 * n + h]);
  }

  RWKV_DEVICE void write_decay_gradient(const std::byte* scaled, const float* w0,
                                        const OwnTokens& tokens, const ChunkOutputs& to) const {
    const int own = own_band(), row = own_row();
    const Fragment r = read_own<Rows64>(scaled + kR * kTokensBytes, 0, own);
    const Fragment k = read_own<Rows64>(scaled + kK * kTokensBytes, 0, own);
    const Fragment a = read_own<Rows64>(scaled + kA * kTokensBytes, 0, own);
    const Fragment b = read_own<Rows64>(scaled + kB * kTokensBytes, 0, own);
    RWKV_UNROLL
    for (int n = 0; n < 2; ++n) {
      const auto plus = *reinterpret_cast<const Floats2*>(w0 + 8 * n + own_column());
      float at[2][2], from[2][2];  // A~ dA~, and the sum from a token on; [half of the rows][e]
      RWKV_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int h = i / 2, e = i % 2;
        at[h][e] = half(a, n, h, e) * of[kA].c[n][i];
        from[h][e] = half(r, n, h, e) * of[kR].c[n][i] - half(k, n, h, e) * of[kK].c[n][i] -
                     half(b, n, h, e) * of[kB].c[n][i] + at[h][e];
        RWKV_UNROLL
        for (int step = 1; step < 8; step *= 2) {
          const float other =
              device::warp_read(from[h][e], (lane_index() + 4 * step) & (kWarp - 1));
          if (row + step < 8) from[h][e] += other;
        }
      }
      RWKV_UNROLL
      for (int e = 0; e < 2; ++e) from[0][e] += device::warp_read(from[1][e], lane_index() % 4);
      RWKV_UNROLL
      for (int h = 0; h < 2; ++h) {
        if (row + 8 * h >= tokens.count) continue;
        const int64_t place = tokens.at(row + 8 * h, 8 * n + own_column());
        const float raw[2] = {low_half(w_raw[n][h]), high_half(w_raw[n][h])};
        float result[2];
        RWKV_UNROLL
        for (int e = 0; e < 2; ++e) {
          result[e] = -static_cast<float>(kDecayScale) * sigmoid_slope(raw[e] + plus.x[e]) *
                      (from[h][e] - at[h][e] + tail[2 * n + e]);
        }
        *reinterpret_cast<uint32_t*>(to.dw_raw + place) = device::pack_bf16(result[0], result[1]);
      }
    }
  }

  // Of r and k as they are scaled: gamma cancels.
  RWKV_DEVICE void add_bonus(const std::byte* scaled, const float* r_k) {
    const Fragment r = read_own<Rows64>(scaled + kR * kTokensBytes, 0, own_band());
    const Fragment k = read_own<Rows64>(scaled + kK * kTokensBytes, 0, own_band());
    RWKV_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int n = i / 4, h = i / 2 % 2, e = i % 2;
      const float along = dbonus[h] * r_k[8 * n + own_column() + e];
      of[kR].c[n][2 * h + e] += along * half(k, n, h, e);
      of[kK].c[n][2 * h + e] += along * half(r, n, h, e);
    }
  }

  // To the gradients of r, k, a, b.
  RWKV_DEVICE void unscale(const std::byte* gamma) {
    RWKV_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int n = i / 2, h = i % 2, row = own_row() + 8 * h;
      const int column = own_band() + 8 * n + own_column();
      const auto after = as<Floats2>(gamma + Floats64::offset(row, column));
      const auto before =
          row == 0 ? Floats2{{1, 1}} : as<Floats2>(gamma + Floats64::offset(row - 1, column));
      RWKV_UNROLL
      for (int e = 0; e < 2; ++e) {
        const float inverse = device::fast_inverse(after.x[e]);
        of[kR].c[n][2 * h + e] *= after.x[e];
        of[kA].c[n][2 * h + e] *= before.x[e];
        of[kK].c[n][2 * h + e] *= inverse;
        of[kB].c[n][2 * h + e] *= inverse;
      }
    }
  }
};

}  // namespace rwkv::cuda
