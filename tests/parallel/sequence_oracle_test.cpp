// Kernels and exchanges against tests/oracle/sequence_oracle.py, which shares no code with them:
// one sequence in groups of segments, forward and backward, against the whole.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/plan/segment_plan.h"
#include "kernels/wkv7_sizes.h"
#include "parallel/state_exchange.h"
#include "tests/support/tensors.h"

namespace rwkv {
namespace {

using namespace test;
using Values = std::map<std::string, std::vector<double>>;

constexpr int64_t kN = 4;
constexpr const char* kTokenNames[] = {"r", "w_raw", "k", "v", "a", "b", "dy"};

struct OracleCase {
  int64_t tokens = 0;
  std::vector<int64_t> starts;
  Values values;
};

std::vector<OracleCase> oracle_cases() {
  std::ifstream file(RWKV_SOURCE_DIR "/tests/golden/sequence_oracle.json");
  std::vector<OracleCase> out;
  for (const auto& json : nlohmann::json::parse(file)) {
    OracleCase c{json.at("tokens"), json.at("starts"), {}};
    for (const auto& [name, rows] : json.items()) {
      if (name == "tokens" || name == "starts") continue;
      for (const auto& row : rows) {
        for (const double x : row) c.values[name].push_back(x);
      }
    }
    out.push_back(c);
  }
  return out;
}

// One rank's work on a segment: memory and the ops of a block, without its products.
class SegmentRun {
 public:
  SegmentRun(const OracleCase& c, const Segment& segment)
      : segment_(segment), shape_{1, segment.tokens(), 1, kN} {
    for (const char* name : kTokenNames) {
      Owned<double>& t = tensors_[name];
      t = Owned<double>(shape_);
      const std::vector<double>& all = c.values.at(name);
      for (int64_t i = 0; i < t.size(); ++i) {
        t[i] = all[static_cast<size_t>(segment.run_begin * kN + i)];
      }
    }
    // What the left neighbour counts has no gradient of its own here.
    for (int64_t i = 0; i < (segment.begin - segment.run_begin) * kN; ++i) tensors_["dy"][i] = 0;
    starts_ = Owned<int32_t>({1, segment.tokens()});
    for (const int64_t t : c.starts) {
      if (t >= segment.run_begin && t < segment.end) starts_[t - segment.run_begin] = 1;
    }
    const Shape maps{1, 1, 1, kN, wkv7_state_stride(kN)};
    for (Owned<double>* t : {&m_, &b_, &c_}) *t = Owned<double>(maps);
    for (Owned<double>* t : {&s_in_, &ds_out_}) {
      *t = Owned<double>({1, 1, kN, kN});
    }
    saved_ =
        Owned<double>({1, 1, wkv7_saved_states(segment.tokens(), 0), kN, wkv7_state_stride(kN)});
  }

  // exchange: nullptr runs it again from what entered.
  void forward(StateExchange* exchange) {
    const Backend& ops = reference_backend();
    ops.wkv7_map({}, {in(), 0, 1, m_.view(), b_.view()});
    if (exchange != nullptr) {
      exchange->send_maps({}, 0, m_.view(), b_.view());
      exchange->receive_state({}, 0, s_in_.view());
    }
    ops.wkv7_forward(
        {},
        {.in = in(), .s_in = s_in_.view(), .y = out("y"), .s_out = {}, .s_saved = saved_.view()});
  }
  void backward(StateExchange& exchange) {
    const Backend& ops = reference_backend();
    ops.wkv7_map_backward({}, {in(), tensors_["dy"].view(), 0, 1, c_.view()});
    exchange.send_adjoints({}, 0, m_.view(), c_.view());
    exchange.receive_gradient({}, 0, ds_out_.view());
    Owned<double> scratch({1, wkv7_backward_scratch(kN)});
    ops.wkv7_backward({}, {.in = in(),
                           .s_saved = saved_.view(),
                           .dy = tensors_["dy"].view(),
                           .ds_out = ds_out_.view(),
                           .dr = out("dr"),
                           .dk = out("dk"),
                           .dv = out("dv"),
                           .da = out("da"),
                           .db = out("db"),
                           .dw_raw = out("dw_raw"),
                           .ds_in = {},
                           .scratch = scratch.view()});
  }

  // Adds this segment's results at its place; outputs only where it counts them.
  void add_to(Values& sums) {
    for (auto& [name, t] : results_) {
      const int64_t skipped = name == "y" ? (segment_.begin - segment_.run_begin) * kN : 0;
      for (int64_t i = skipped; i < t.size(); ++i) {
        sums[name][static_cast<size_t>(segment_.run_begin * kN + i)] += t[i];
      }
    }
  }

 private:
  Wkv7Sequence in() {
    return {.r = tensors_["r"].view(),
            .k = tensors_["k"].view(),
            .v = tensors_["v"].view(),
            .a = tensors_["a"].view(),
            .b = tensors_["b"].view(),
            .w_raw = tensors_["w_raw"].view(),
            .starts = starts_.view(),
            .tile = 0,
            .overlap = segment_.end - segment_.handed};
  }
  Tensor out(const std::string& name) {
    Owned<double>& t = results_[name];
    t = Owned<double>(shape_);
    return t.view();
  }

  Segment segment_;
  Shape shape_;
  std::map<std::string, Owned<double>> tensors_, results_;
  Owned<int32_t> starts_;
  Owned<double> m_, b_, c_, s_in_, ds_out_, saved_;
};

struct OracleSplit {
  int ranks;
  int64_t overlap;
  ExchangeKind exchange;
};

// Chunks of 4 of 23 tokens: six segments, that fill the groups of 1, 2, 3 and 6 ranks. What enters
// the sequence is what a group before it would have left, and so with gradients behind its end.
Values run_split(const OracleCase& c, const OracleSplit& split) {
  Values sums;
  for (const char* name : {"y", "dr", "dw_raw", "dk", "dv", "da", "db"}) {
    sums[name].resize(static_cast<size_t>(c.tokens * kN));
  }
  std::mutex mutex;
  run_local(split.ranks, [&](Communicator& comm) {
    const SegmentPlan plan = plan_segments(c.tokens, split.ranks, 4, split.overlap, 0);
    require(plan.segments() % split.ranks == 0, "groups are full");
    const ExchangeLayout layout{1, 1, kN, kN, 1, DType::kF64};
    Arena measure;
    make_exchange(split.exchange, comm, reference_backend(), layout, measure);
    const Buffer memory(measure.peak());
    Arena arena(memory.data(), memory.bytes());
    const auto exchange = make_exchange(split.exchange, comm, reference_backend(), layout, arena);
    assign(exchange->carried(0)[1], c.values.at("s_in"));
    assign(exchange->dcarried(0)[1], c.values.at("ds_out"));
    std::vector<SegmentRun> runs;
    const GroupPlace inner{split.ranks, false, false, 1};
    for (int64_t group = 0; group < plan.groups(); ++group) {
      exchange->begin_group(inner);
      runs.emplace_back(c, *plan.at(group, comm.rank())).forward(exchange.get());
    }
    const std::vector<double> s_out = doubles(exchange->carried(0)[1]);
    for (int64_t group = plan.groups(); group-- > 0;) {
      exchange->begin_group(inner);
      SegmentRun& run = runs[static_cast<size_t>(group)];
      run.forward(nullptr);
      run.backward(*exchange);
    }
    const std::vector<double> ds_in = doubles(exchange->dcarried(0)[1]);
    comm.barrier();
    const std::lock_guard lock(mutex);
    for (SegmentRun& run : runs) run.add_to(sums);
    if (comm.rank() == 0) sums["s_out"] = s_out;
    if (comm.rank() + 1 == comm.size()) sums["ds_in"] = ds_in;
  });
  return sums;
}

TEST(SequenceOracle, SegmentsOverRanksAreTheWholeOfAnotherProgram) {
  int splits = 0;
  for (const OracleCase& c : oracle_cases()) {
    for (const int ranks : {1, 2, 3, 6}) {
      for (const int64_t overlap : {0, 1, 2, 4}) {
        for (const char* exchange : {"gather", "ring", "two_level"}) {
          const Values got = run_split(c, {ranks, overlap, {exchange, ranks == 6 ? 3 : 1}});
          for (const auto& [name, values] : got) {
            EXPECT_LT(distance(values, c.values.at(name)), 1e-13)
                << name << ": " << ranks << " ranks, overlap " << overlap << ", " << exchange
                << ", starts " << testing::PrintToString(c.starts);
          }
          ++splits;
        }
      }
    }
  }
  EXPECT_EQ(splits, 4 * 4 * 4 * 3);
}

}  // namespace
}  // namespace rwkv
