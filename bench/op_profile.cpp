#include "bench/op_profile.h"

#include <fmt/format.h>

#include "kernels/each_op.h"

namespace rwkv::bench {
namespace {

const Backend* inner =
    nullptr;  // kernels are plain functions: their table has to be found somewhere
Roof device_roof;
std::map<std::string, OpTime> all_times;

std::string label(std::string_view name, const Matmul& op) {
  const int64_t k = op.trans_a ? op.a.shape[0] : op.a.shape[1];
  return fmt::format("{} {} x {} x {}", name, op.c.shape[0], k, op.c.shape[1]);
}
std::string label(std::string_view, const ReluSquaredProduct& op) {
  return label(op.squared.empty() ? "relu_squared" : "relu_squared, back", op.product);
}
std::string label(std::string_view name, const WeightGradient& op) {
  return fmt::format("{} {} x {} x {}", name, op.left.shape[1], op.left.shape[0],
                     op.right.shape[1]);
}
template <class Op>
std::string label(std::string_view name, const Op&) {
  return std::string(name);
}

template <auto Member>
std::string_view name_of_member() {
  const std::string_view whole = __PRETTY_FUNCTION__;
  const size_t begin = whole.rfind("Backend::") + 9;
  return whole.substr(begin, whole.find_first_of(";]", begin) - begin);
}

template <auto Member, class Op>
void timed(const Stream& stream, const Op& op) {
  inner->memory->wait(stream);
  const auto start = std::chrono::steady_clock::now();
  (inner->*Member)(stream, op);
  inner->memory->wait(stream);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  OpTime& sum = all_times[label(name_of_member<Member>(), op)];
  sum.seconds += taken.count();
  sum.roof += device_roof.seconds(cost(op));
  ++sum.calls;
}

template <auto Member, class Op>
void wrap(Backend& table, Kernel<Op> Backend::*) {
  table.*Member = timed<Member, Op>;
}

}  // namespace

OpProfile::OpProfile(const Backend& ops, const Roof& roof) : table_(ops) {
  inner = &ops;
  device_roof = roof;
  each_op([&]<auto Member>() { wrap<Member>(table_, Member); });
}

const std::map<std::string, OpTime>& OpProfile::times() const { return all_times; }
void OpProfile::clear() { all_times.clear(); }

}  // namespace rwkv::bench
