#include "tests/support/gpu/gpu_backend.h"

#include "kernels/cuda_library.h"
#include "tests/support/gpu/shared_new.h"

namespace rwkv::test {
namespace {

constexpr int64_t kScratch = int64_t{128} << 20;

// The op with the library's own scratch, and until it is over.
template <auto Member, class Op>
void until_over(const Stream& stream, const Op& op) {
  const Backend& cuda = *cuda_library().backend;
  static const Buffer scratch(kScratch, *cuda.memory);
  Stream own = stream;
  own.scratch = scratch.data();
  own.scratch_bytes = scratch.bytes();
  (cuda.*Member)(own, op);
  cuda.memory->wait(own);
}

template <auto Member, class Op>
void wrap(Backend& table, Kernel<Op> Backend::*) {
  table.*Member = until_over<Member, Op>;
}

Backend make_table() {
  Backend t = *cuda_library().backend;
  t.memory = &host_memory();
  const auto all = [&]<auto... Members>() { (wrap<Members>(t, Members), ...); };
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

std::string why_no_gpu() {
  if (cuda_library().devices == 0) return cuda_library().why;
  return share_new() ? "" : "no memory that host and GPU share";
}

const Backend* gpu_backend() {
  if (!why_no_gpu().empty()) return nullptr;
  static const Backend table = make_table();
  return &table;
}

}  // namespace rwkv::test
