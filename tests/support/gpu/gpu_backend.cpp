#include "tests/support/gpu/gpu_backend.h"

#include "kernels/cuda_library.h"
#include "kernels/each_op.h"
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
  each_op([&]<auto Member>() { wrap<Member>(t, Member); });
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
