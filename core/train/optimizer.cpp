#include "core/train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace rwkv {

Optimizer::Optimizer(const OptimizerConfig& config, ParamStore& store)
    : config_(config),
      store_(store),
      squares_((store.exact() ? static_cast<int64_t>(store.size()) : 1) * 8, store.memory()),
      on_host_(squares_.bytes()) {}

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
  for (size_t i = 0; i < store_.size(); ++i) {
    const ParamSpec& spec = store_.specs()[i];
    const Extent own = store_.own(i);
    if (own.begin == own.end) continue;
    const auto flat = [](Tensor x) { return x.reshaped({x.elements()}); };
    const auto piece = [&](Tensor x) { return flat(x).rows(own.begin, own.end); };
    const Tensor copy = store_.compute_copy(i);
    pass.ops.adamw(pass.stream, {.master = piece(store_.master(i)),
                                 .m = flat(store_.moment1(i)),
                                 .v = flat(store_.moment2(i)),
                                 .grad = piece(store_.grad(i)),
                                 .compute = copy.empty() ? Tensor{} : piece(copy),
                                 .grad_unit = store_.grad_unit(i),
                                 .grad_scale = scale * clip,
                                 .lr = lr * spec.lr_scale,
                                 .decay = spec.decay ? config_.weight_decay : 0,
                                 .beta1 = config_.beta1,
                                 .beta2 = config_.beta2,
                                 .eps = config_.eps,
                                 .correction1 = 1 - std::pow(config_.beta1, t),
                                 .correction2 = 1 - std::pow(config_.beta2, t)});
  }
}

}  // namespace rwkv
