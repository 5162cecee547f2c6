#pragma once

#include "core/base/stream.h"
#include "kernels/adamw.h"
#include "kernels/reference/scalar.h"

namespace rwkv::reference {

template <class S, class G>
void adamw_from(const AdamW& op, const AdamWTensor& t) {
  S *p = t.master.as<S>(), *m = t.m.as<S>(), *v = t.v.as<S>();
  const G* grad = t.grad.as<G>();
  for (int64_t i = 0; i < t.master.elements(); ++i) {
    const double g = static_cast<double>(grad[i]) * t.grad_unit * op.grad_scale;
    const double m_new = op.beta1 * static_cast<double>(m[i]) + (1 - op.beta1) * g;
    const double v_new = op.beta2 * static_cast<double>(v[i]) + (1 - op.beta2) * g * g;
    const double step = m_new / op.correction1 / (std::sqrt(v_new / op.correction2) + op.eps);
    p[i] = static_cast<S>(static_cast<double>(p[i]) * (1 - t.lr * t.decay) - t.lr * step);
    m[i] = static_cast<S>(m_new);
    v[i] = static_cast<S>(v_new);
  }
}

template <class S>
void adamw(const Stream&, const AdamW& op) {
  for (const AdamWTensor& t : op.tensors) {
    t.grad.dtype == DType::kI64 ? adamw_from<S, int64_t>(op, t) : adamw_from<S, S>(op, t);
  }
}

}  // namespace rwkv::reference
