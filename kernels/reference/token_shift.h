#pragma once

#include "core/base/stream.h"
#include "kernels/documents.h"
#include "kernels/reference/scalar.h"
#include "kernels/reference/token_sum.h"
#include "kernels/token_shift.h"

namespace rwkv::reference {

// Channel c of the row before row r = b T + t.
template <class S>
S row_before(const ConstTensor& u, const ConstTensor& halo, const ConstTensor& starts, int64_t r,
             int64_t c) {
  const int64_t tokens = u.shape[1], width = u.shape[2];
  if (starts_at(starts, r)) return 0;
  return r % tokens == 0 ? halo.as<S>()[r / tokens * width + c] : u.as<S>()[(r - 1) * width + c];
}

template <class S>
void token_shift_forward(const Stream&, const TokenShiftForward& op) {
  const int64_t width = op.u.shape[2], rows = op.u.shape[0] * op.u.shape[1];
  const S* u = op.u.as<S>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      const int64_t i = r * width + c;
      const S difference = row_before<S>(op.u, op.halo, op.starts, r, c) - u[i];
      for (size_t m = 0; m < static_cast<size_t>(op.mixes); ++m) {
        op.out[m].as<S>()[i] = u[i] + difference * op.mix[m].as<S>()[c];
      }
    }
  }
}

template <class S>
void halo_forward(const Stream&, const HaloForward& op) {
  const int64_t batch = op.u.shape[0], tokens = op.u.shape[1], width = op.u.shape[2];
  for (int64_t i = 0; i < batch * width; ++i) {
    const int64_t row = i / width * tokens + op.at;
    op.out.as<S>()[i] = op.at < 0 ? S(0) : op.u.as<S>()[row * width + i % width];
  }
}

template <class S>
void halo_backward(const Stream&, const HaloBackward& op) {
  const int64_t batch = op.dout[0].shape[0], tokens = op.dout[0].shape[1];
  const int64_t width = op.dout[0].shape[2];
  for (int64_t i = 0; i < batch * width; ++i) {
    const int64_t first = i / width * tokens;
    S sum = 0;
    if (!starts_at(op.starts, first)) {
      for (size_t m = 0; m < static_cast<size_t>(op.mixes); ++m) {
        sum += op.dout[m].as<S>()[first * width + i % width] * op.mix[m].as<S>()[i % width];
      }
    }
    op.dhalo.as<S>()[i] = sum;
  }
}

// dmix_m = sum over tokens of g_m (u_{t-1} - u_t).
template <class S>
void token_shift_mixes(const TokenShiftBackward& op) {
  const int64_t width = op.u.shape[2], rows = op.u.shape[0] * op.u.shape[1];
  const S* u = op.u.as<S>();
  for (int64_t begin = 0; begin < rows; begin = op.leaves.end(begin, rows)) {
    const int64_t end = op.leaves.end(begin, rows);
    for (size_t m = 0; m < static_cast<size_t>(op.mixes); ++m) {
      const S* g = op.dout[m].as<S>();
      for (int64_t c = 0; c < width; ++c) {
        S sum = 0;
        for (int64_t r = begin; r < end; ++r) {
          const int64_t i = r * width + c;
          sum += g[i] * (row_before<S>(op.u, op.halo, op.starts, r, c) - u[i]);
        }
        add_partial(op.dmix[m], c, sum);
      }
    }
  }
}

// du_t = sum_m g_m,t (1 - mix_m) + g_m,t+1 mix_m; row `at` also gets dhalo_out.
template <class S>
void token_shift_backward(const Stream&, const TokenShiftBackward& op) {
  const int64_t batch = op.u.shape[0], tokens = op.u.shape[1], width = op.u.shape[2];
  const S* from_right = op.dhalo_out.as<S>();
  S* du = op.du.as<S>();
  token_shift_mixes<S>(op);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t c = 0; c < width; ++c) {
      S carried = 0;
      for (int64_t t = tokens - 1; t >= 0; --t) {
        const int64_t i = (b * tokens + t) * width + c;
        S own = 0, to_left = 0;
        for (int m = 0; m < op.mixes; ++m) {
          const auto j = static_cast<size_t>(m);
          const S g = op.dout[j].as<S>()[i], mix = op.mix[j].as<S>()[c];
          own += g * (S(1) - mix);
          to_left += g * mix;
        }
        if (from_right != nullptr && t == op.at) carried += from_right[b * width + c];
        du[i] = own + carried;
        carried = starts_at(op.starts, b * tokens + t) ? S(0) : to_left;
      }
    }
  }
}

}  // namespace rwkv::reference
