#pragma once

#include "core/base/stream.h"
#include "kernels/reference/scalar.h"
#include "kernels/reference/token_sum.h"
#include "kernels/token_shift.h"

namespace rwkv::reference {

template <class S>
void token_shift_forward(const Stream&, const TokenShiftForward& op) {
  const int64_t batch = op.u.shape[0], tokens = op.u.shape[1], width = op.u.shape[2];
  const S *u = op.u.as<S>(), *halo = op.halo.as<S>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row = (b * tokens + t) * width;
      for (int64_t c = 0; c < width; ++c) {
        const S previous = t == 0 ? halo[b * width + c] : u[row - width + c];
        for (int m = 0; m < op.mixes; ++m) {
          const auto i = static_cast<size_t>(m);
          op.out[i].as<S>()[row + c] = u[row + c] + (previous - u[row + c]) * op.mix[i].as<S>()[c];
        }
      }
    }
    if (S* out = op.halo_out.as<S>()) {
      const S* last = u + (b * tokens + tokens - 1) * width;
      for (int64_t c = 0; c < width; ++c) out[b * width + c] = last[c];
    }
  }
}

// dmix_m = sum over tokens of g_m (u_{t-1} - u_t).
template <class S>
void token_shift_mixes(const TokenShiftBackward& op) {
  const int64_t tokens = op.u.shape[1], width = op.u.shape[2], rows = op.u.shape[0] * tokens;
  const S *u = op.u.as<S>(), *halo = op.halo.as<S>();
  for (int64_t begin = 0; begin < rows; begin = op.leaves.end(begin, rows)) {
    const int64_t end = op.leaves.end(begin, rows);
    for (size_t m = 0; m < static_cast<size_t>(op.mixes); ++m) {
      const S* g = op.dout[m].as<S>();
      for (int64_t c = 0; c < width; ++c) {
        S sum = 0;
        for (int64_t r = begin; r < end; ++r) {
          const int64_t i = r * width + c;
          sum += g[i] * ((r % tokens == 0 ? halo[r / tokens * width + c] : u[i - width]) - u[i]);
        }
        add_partial(op.dmix[m], c, sum);
      }
    }
  }
}

// du_t = sum_m g_m,t (1 - mix_m) + g_m,t+1 mix_m; the last token's right neighbour is dhalo_out.
template <class S>
void token_shift_backward(const Stream&, const TokenShiftBackward& op) {
  const int64_t batch = op.u.shape[0], tokens = op.u.shape[1], width = op.u.shape[2];
  const S* from_right = op.dhalo_out.as<S>();
  S *du = op.du.as<S>(), *dhalo = op.dhalo.as<S>();
  token_shift_mixes<S>(op);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t c = 0; c < width; ++c) {
      S carried = from_right == nullptr ? S(0) : from_right[b * width + c];
      for (int64_t t = tokens - 1; t >= 0; --t) {
        const int64_t i = (b * tokens + t) * width + c;
        S own = 0, to_left = 0;
        for (int m = 0; m < op.mixes; ++m) {
          const auto j = static_cast<size_t>(m);
          const S g = op.dout[j].as<S>()[i], mix = op.mix[j].as<S>()[c];
          own += g * (S(1) - mix);
          to_left += g * mix;
        }
        du[i] = own + carried;
        carried = to_left;
      }
      if (dhalo != nullptr) dhalo[b * width + c] = carried;
    }
  }
}

}  // namespace rwkv::reference
