#include "core/train/totals.h"

#include <algorithm>

namespace rwkv {
namespace {

// Calls visit(whole range) for everything that is added up, in an order of its own.
template <class Visit>
void each_part(const Visit& visit, std::initializer_list<OrderFreeSum*> sums, int64_t& stop,
               int64_t& exchanged, std::vector<int64_t>& asked, std::vector<int64_t>& answered) {
  for (OrderFreeSum* sum : sums) {
    for (int64_t& part : sum->parts()) visit(part);
  }
  visit(stop);
  visit(exchanged);
  for (int64_t& n : asked) visit(n);
  for (int64_t& n : answered) visit(n);
}

}  // namespace

void Totals::add(const ConstTensor& losses, const ConstTensor& weights, int64_t leaf) {
  const float* w = weights.as<float>();
  const bool wide = losses.dtype == DType::kF64;
  const int64_t tokens = weights.shape[weights.shape.rank - 1];
  const Leaves leaves{tokens, leaf > 0 ? leaf : tokens, 0};
  const int64_t all = weights.elements();
  for (int64_t first = 0, end = 0; first < all; first = end) {
    end = leaves.end(first, all);
    double nats = 0, weight = 0;
    for (int64_t i = first; i < end; ++i) {
      if (w[i] == 0) continue;  // padding may hold anything
      const double token_nats =
          wide ? losses.as<double>()[i] : static_cast<double>(losses.as<float>()[i]);
      nats += static_cast<double>(w[i]) * token_nats;
      weight += static_cast<double>(w[i]);
    }
    loss_.add(nats);
    weight_.add(weight);
  }
}

void Totals::clear() {
  each_part([](int64_t& part) { part = 0; }, {&loss_, &weight_, &nats_}, stop, exchanged, asked,
            answered);
}

void Totals::reduce(Communicator& comm) {
  if (comm.size() == 1) return;
  packed_.clear();
  each_part([&](int64_t& part) { packed_.push_back(part); }, {&loss_, &weight_, &nats_}, stop,
            exchanged, asked, answered);
  Stream stream;
  comm.all_reduce(view_of(packed_.data(), {static_cast<int64_t>(packed_.size())}), Reduce::kSum,
                  stream)
      ->wait();
  auto next = packed_.begin();
  each_part([&](int64_t& part) { part = *next++; }, {&loss_, &weight_, &nats_}, stop, exchanged,
            asked, answered);
}

}  // namespace rwkv
