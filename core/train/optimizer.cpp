#include "core/train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace rwkv {

Optimizer::Optimizer(const OptimizerConfig& config, ParamStore& store)
    : config_(config),
      store_(store),
      squares_((store.exact() ? static_cast<int64_t>(store.size()) : 1) * 8, store.memory()),
      on_host_(squares_.bytes()) {
  for (size_t i = 0; i < store.size(); ++i) {
    const Extent own = store.own(i);
    if (own.begin == own.end) continue;
    const auto flat = [](Tensor x) { return x.reshaped({x.elements()}); };
    const auto piece = [&](Tensor x) { return flat(x).rows(own.begin, own.end); };
    const Tensor copy = store.compute_copy(i);
    updated_.push_back(i);
    tensors_.push_back({.master = piece(store.master(i)),
                        .m = flat(store.moment1(i)),
                        .v = flat(store.moment2(i)),
                        .grad = piece(store.grad(i)),
                        .compute = copy.empty() ? Tensor{} : piece(copy),
                        .decay = store.specs()[i].decay ? config.weight_decay : 0});
  }
}

double Optimizer::norm(const Pass& pass, double scale) {
  // Floats lie in one piece; fixed point has a unit a parameter.
  const int64_t count = squares_.bytes() / 8;
  const Tensor squares{squares_.data(), DType::kF64, {count}};
  if (count == 1) {
    pass.ops.sum_squares(pass.stream, {store_.all_gradients(), squares, store_.grad_unit(0)});
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const auto param = static_cast<size_t>(i);
      pass.ops.sum_squares(pass.stream,
                           {store_.grad(param), squares.rows(i, i + 1), store_.grad_unit(param)});
    }
  }
  const ConstTensor parts = on_host(store_.memory(), pass.stream, squares, on_host_);
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += parts.as<double>()[i];
  return std::sqrt(total) * scale;
}

void Optimizer::step(const Pass& pass, double lr, int64_t update, double norm, double scale) {
  const double clip = config_.clip > 0 ? std::min(1.0, config_.clip / (norm + 1e-6)) : 1.0;
  const auto t = static_cast<double>(update);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const size_t param = updated_[i];
    tensors_[i].grad_unit = store_.grad_unit(param);
    tensors_[i].lr = lr * store_.specs()[param].lr_scale;
  }
  pass.ops.adamw(pass.stream, {.tensors = tensors_,
                               .grad_scale = scale * clip,
                               .beta1 = config_.beta1,
                               .beta2 = config_.beta2,
                               .eps = config_.eps,
                               .correction1 = 1 - std::pow(config_.beta1, t),
                               .correction2 = 1 - std::pow(config_.beta2, t)});
}

}  // namespace rwkv
