#pragma once

#include "kernels/reference/scalar.h"
#include "kernels/token_sum.h"

namespace rwkv::reference {

// Adds one leaf's partial to element i.
template <class S>
void add_partial(const TokenSum& to, int64_t i, S partial) {
  if (!to.fixed()) {
    to.sum.as<S>()[i] += partial;
    return;
  }
  const auto p = real_part(partial);
  auto& sum = to.sum.as<int64_t>()[i];
  sum = static_cast<int64_t>(static_cast<uint64_t>(sum) + to_fixed(p, to.scale));
  raise_peak(to, magnitude_bits(p));
}

}  // namespace rwkv::reference
