// The ops of a backend one after the other, for tables that wrap another's: with a clock, with
// walls.
#pragma once

#include "kernels/backend.h"

namespace rwkv {

// Calls visit.operator()<&Backend::op>() for every op of the table.
template <class Visit>
void each_op(const Visit& visit) {
  visit.template operator()<&Backend::matmul>();
  visit.template operator()<&Backend::relu_squared_product>();
  visit.template operator()<&Backend::weight_gradient>();
  visit.template operator()<&Backend::activation_forward>();
  visit.template operator()<&Backend::activation_backward>();
  visit.template operator()<&Backend::cast>();
  visit.template operator()<&Backend::sum_squares>();
  visit.template operator()<&Backend::embedding_forward>();
  visit.template operator()<&Backend::embedding_backward>();
  visit.template operator()<&Backend::layer_norm_forward>();
  visit.template operator()<&Backend::layer_norm_backward>();
  visit.template operator()<&Backend::token_shift_forward>();
  visit.template operator()<&Backend::norm_shift_forward>();
  visit.template operator()<&Backend::norm_shift_backward>();
  visit.template operator()<&Backend::halo_forward>();
  visit.template operator()<&Backend::halo_backward>();
  visit.template operator()<&Backend::time_mix_in_forward>();
  visit.template operator()<&Backend::time_mix_in_backward>();
  visit.template operator()<&Backend::wkv7_map>();
  visit.template operator()<&Backend::wkv7_forward>();
  visit.template operator()<&Backend::wkv7_map_backward>();
  visit.template operator()<&Backend::wkv7_backward>();
  visit.template operator()<&Backend::wkv7_fold>();
  visit.template operator()<&Backend::time_mix_out_forward>();
  visit.template operator()<&Backend::time_mix_out_backward>();
  visit.template operator()<&Backend::rope>();
  visit.template operator()<&Backend::attention_halo>();
  visit.template operator()<&Backend::attention_forward>();
  visit.template operator()<&Backend::attention_backward>();
  visit.template operator()<&Backend::dropout>();
  visit.template operator()<&Backend::cross_entropy>();
  visit.template operator()<&Backend::adamw>();
}

}  // namespace rwkv
