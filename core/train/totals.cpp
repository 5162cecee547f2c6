#include "core/train/totals.h"

namespace rwkv {

void Totals::add(const Tensor& losses, const ConstTensor& weights) {
  const float* w = weights.as<float>();
  const bool wide = losses.dtype == DType::kF64;
  for (int64_t i = 0; i < weights.elements(); ++i) {
    if (w[i] == 0) continue;  // padding may hold anything
    const double token_nats =
        wide ? losses.as<double>()[i] : static_cast<double>(losses.as<float>()[i]);
    loss += static_cast<double>(w[i]) * token_nats;
    weight += static_cast<double>(w[i]);
  }
}

void Totals::reduce(Communicator& comm) {
  if (comm.size() == 1) return;
  packed_ = {loss, weight, nats, stop};
  packed_.insert(packed_.end(), asked.begin(), asked.end());
  packed_.insert(packed_.end(), answered.begin(), answered.end());
  Stream stream;
  comm.all_reduce(view_of(packed_.data(), {static_cast<int64_t>(packed_.size())}), Reduce::kSum,
                  stream)
      ->wait();
  loss = packed_[0];
  weight = packed_[1];
  nats = packed_[2];
  stop = packed_[3];
  const auto skills = static_cast<std::ptrdiff_t>(asked.size());
  std::copy(packed_.begin() + 4, packed_.begin() + 4 + skills, asked.begin());
  std::copy(packed_.begin() + 4 + skills, packed_.end(), answered.begin());
}

}  // namespace rwkv
