#pragma once

#include "core/base/stream.h"
#include "kernels/adamw.h"
#include "kernels/reference/scalar.h"

namespace rwkv::reference {

template <class S, class G>
void adamw_from(const Stream&, const AdamW& op) {
  S *p = op.master.as<S>(), *m = op.m.as<S>(), *v = op.v.as<S>();
  const G* grad = op.grad.as<G>();
  for (int64_t i = 0; i < op.master.elements(); ++i) {
    const double g = static_cast<double>(grad[i]) * op.grad_unit * op.grad_scale;
    const double m_new = op.beta1 * static_cast<double>(m[i]) + (1 - op.beta1) * g;
    const double v_new = op.beta2 * static_cast<double>(v[i]) + (1 - op.beta2) * g * g;
    const double step = m_new / op.correction1 / (std::sqrt(v_new / op.correction2) + op.eps);
    p[i] = static_cast<S>(static_cast<double>(p[i]) * (1 - op.lr * op.decay) - op.lr * step);
    m[i] = static_cast<S>(m_new);
    v[i] = static_cast<S>(v_new);
  }
}

template <class S>
void adamw(const Stream& stream, const AdamW& op) {
  op.grad.dtype == DType::kI64 ? adamw_from<S, int64_t>(stream, op) : adamw_from<S, S>(stream, op);
}

}  // namespace rwkv::reference
