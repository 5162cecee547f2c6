#include "tests/support/walled_backend.h"

#include "kernels/each_op.h"
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

Backend walled_table() {
  Backend t = cpu_backend();
  t.name = "walled cpu";
  t.memory = &walled_memory();
  each_op([&]<auto Member>() { wall<Member>(t, Member); });
  return t;
}

}  // namespace

const Backend& walled_backend() {
  static const Backend table = walled_table();
  return table;
}

}  // namespace rwkv::test
