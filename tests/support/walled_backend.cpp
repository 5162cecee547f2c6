#include "tests/support/walled_backend.h"

#include "tests/support/walled_memory.h"

namespace rwkv::test {
namespace {

template <auto Member, class Op>
void inside(const Stream& stream, const Op& op) {
  const OpenWalls open;
  (cpu_backend().*Member)(stream, op);
}

// The op with walls around it.
template <auto Member, class Op>
void wall(Backend& table, Kernel<Op> Backend::*) {
  table.*Member = inside<Member, Op>;
}

Backend make_table() {
  Backend t = cpu_backend();
  t.name = "walled cpu";
  t.memory = &walled_memory();
  const auto all = [&]<auto... Members>() { (wall<Members>(t, Members), ...); };
  all.
  operator()<&Backend::matmul, &Backend::weight_gradient, &Backend::activation_forward,
             &Backend::activation_backward, &Backend::cast, &Backend::sum_squares,
             &Backend::embedding_forward, &Backend::embedding_backward,
             &Backend::layer_norm_forward, &Backend::layer_norm_backward,
             &Backend::token_shift_forward, &Backend::token_shift_backward, &Backend::halo_forward,
             &Backend::halo_backward, &Backend::time_mix_in_forward, &Backend::time_mix_in_backward,
             &Backend::wkv7_map, &Backend::wkv7_forward, &Backend::wkv7_map_backward,
             &Backend::wkv7_backward, &Backend::wkv7_fold, &Backend::time_mix_out_forward,
             &Backend::time_mix_out_backward, &Backend::cross_entropy, &Backend::adamw>();
  return t;
}

}  // namespace

const Backend& walled_backend() {
  static const Backend table = make_table();
  return table;
}

}  // namespace rwkv::test
