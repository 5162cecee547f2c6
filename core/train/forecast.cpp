#include "core/train/forecast.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace rwkv {
namespace {

// Where a block meets its neighbours, as a share of its time (profile of the CPU backend, width
// 512): rows before the time mix; maps are sent; state is needed; rows before the channel mix.
constexpr double kRows1 = 0.03, kMaps = 0.45, kState = 0.6, kRows2 = 0.75;

// Loss, its gradient by the logits, two products: beside the loss alone.
constexpr double kHeadBackward = 3;

// One sequence's ranks through a pass over all groups.
class SequenceClock {
 public:
  SequenceClock(const ForecastInput& in, SimulatedRanks& ranks, double forward, double head,
                double backward)
      : in_(in),
        all_(in.plan.segments),
        ranks_(ranks),
        forward_(forward),
        head_(std::min(kHeadBackward * head, backward / 2)),
        backward_(backward - head_),
        carried_(static_cast<size_t>(in.layout.layers), 0.0),
        kind_(in.plan.exchange.chosen(all_.ranks)),
        talks_(in.plan.handing.state && !in.plan.whole()) {}

  void pass() {
    const bool gradient = in_.plan.handing.gradient;
    const int64_t groups = all_.groups(), span = in_.plan.span();
    const int64_t again = gradient ? (in_.plan.spans() - 1) * span : 0;
    for (int64_t g = 0; g < again; ++g) forward(g, talks_);
    for (int64_t first = (groups - 1) / span * span; first >= 0; first -= span) {
      const int64_t end = std::min(first + span, groups);
      for (int64_t g = first; g < end; ++g) forward(g, talks_);
      for (int64_t g = end - 1; g >= first; --g) {
        if (g + 1 < end) forward(g, false);
        backward(g);
      }
    }
  }

 private:
  // Seconds of `rank` for all layers at `rate` a token.
  double cost(int64_t group, int rank, double rate) const {
    const auto segment = all_.at(group, rank);
    return segment ? rate * static_cast<double>(segment->tokens() * in_.layout.batch) : 0;
  }
  void all_compute(int64_t group, double rate) {
    for (int p = 0; p < ranks_.size(); ++p) ranks_.compute(p, cost(group, p, rate));
  }

  void forward(int64_t group, bool talks) {
    for (size_t layer = 0; layer < carried_.size(); ++layer) {
      this->layer(group, forward_, talks, false, carried_[layer]);
    }
  }
  void backward(int64_t group) {
    all_compute(group, head_);
    if (in_.recompute) forward(group, false);
    for (size_t layer = carried_.size(); layer-- > 0;) {
      this->layer(group, backward_, talks_ && in_.plan.handing.gradient, true, carried_[layer]);
    }
  }

  // One layer; `reversed`: what is handed on goes to the left. `carried`: when what left the group
  // before is there.
  void layer(int64_t group, double rate, bool talks, bool reversed, double& carried) {
    const double part = rate / static_cast<double>(in_.layout.layers);
    if (!talks) return all_compute(group, part);
    const int64_t item = bytes_of(in_.layout.acc);
    const int64_t row = in_.layout.batch * in_.layout.width * item;
    all_compute(group, kRows1 * part);
    hand_rows(row, reversed);
    all_compute(group, (kMaps - kRows1) * part);
    double sent = 0;
    for (int p = 0; p < ranks_.size(); ++p) sent = std::max(sent, ranks_.clock(p));
    all_compute(group, (kState - kMaps) * part);
    const int64_t maps = 2 * in_.layout.maps(in_.layout.tiles).elements() * item;
    const int64_t state = in_.layout.state().elements() * item;
    if (kind_.name != "ring") {
      const int node = kind_.name == "gather" ? ranks_.size() : kind_.node;
      const double there = ranks_.gathered(sent, maps, node);
      for (int p = 0; p < ranks_.size(); ++p) ranks_.wait(p, there);
    }
    if (kind_.name != "gather") hand_state(state, reversed, carried);
    all_compute(group, (kRows2 - kState) * part);
    hand_rows(row, reversed);
    all_compute(group, (1 - kRows2) * part);
  }

  void hand_rows(int64_t bytes, bool reversed) {
    const int last = ranks_.size() - 1;
    double there = 0;
    for (int i = 0; i <= last; ++i) {
      const int p = reversed ? last - i : i;
      const double next = ranks_.arrival(p, bytes);
      if (i > 0) ranks_.wait(p, there);
      there = next;
    }
  }

  // From rank to rank, or from node to node by each rank to its counterpart.
  void hand_state(int64_t bytes, bool reversed, double& carried) {
    const int nodes = ranks_.size() / kind_.node;
    double latest = 0;
    for (int lane = 0; lane < kind_.node; ++lane) {
      double there = carried;
      for (int i = 0; i < nodes; ++i) {
        const int p = (reversed ? nodes - 1 - i : i) * kind_.node + lane;
        ranks_.wait(p, there);
        there = ranks_.arrival(p, bytes);
      }
      latest = std::max(latest, there);
    }
    carried = nodes == 1 ? 0 : latest;
  }

  const ForecastInput& in_;
  const SegmentPlan& all_;
  SimulatedRanks& ranks_;
  double forward_, head_, backward_;
  std::vector<double> carried_;  // a layer
  ExchangeKind kind_;
  bool talks_;
};

}  // namespace

Forecast forecast_step(const ForecastInput& in, const Calibration& measured) {
  const double slower = measured.cores_a_rank / in.cores_a_rank;
  const double scale = slower * in.flops_per_token / measured.flops_per_token;
  const int sequence = in.plan.segments.ranks;
  SimulatedRanks ranks(sequence, measured.link);
  SequenceClock clock(in, ranks, scale * measured.forward, scale * measured.head,
                      scale * measured.backward);
  for (int64_t i = 0; i < in.passes; ++i) clock.pass();
  Forecast out;
  out.compute = ranks.most_computed();
  const double before = ranks.latest();
  SimulatedRanks mesh(sequence * in.data, measured.link);
  mesh.all_reduce(in.gradient_bytes);
  out.gradients = mesh.latest();
  out.update = slower * measured.update * in.parameters;
  out.seconds = before + out.gradients + out.update;
  return out;
}

std::string to_json(const Calibration& c) {
  const nlohmann::ordered_json json = {{"forward_seconds_per_token", c.forward},
                                       {"head_seconds_per_token", c.head},
                                       {"backward_seconds_per_token", c.backward},
                                       {"update_seconds_per_parameter", c.update},
                                       {"latency_seconds", c.link.latency},
                                       {"bytes_per_second", c.link.bytes_per_second},
                                       {"flops_per_token", c.flops_per_token},
                                       {"parameters", c.parameters},
                                       {"cores", c.cores},
                                       {"cores_a_rank", c.cores_a_rank}};
  return json.dump(2) + "\n";
}

Calibration parse_calibration(const std::string& text, const std::string& path) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) throw InputError(path + ": not a JSON object");
  const auto number = [&](const char* name) {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_number() || !(found->get<double>() > 0)) {
      throw InputError(fmt::format("{}: {}: expected a number above 0", path, name));
    }
    return found->get<double>();
  };
  Calibration c;
  c.forward = number("forward_seconds_per_token");
  c.head = number("head_seconds_per_token");
  c.backward = number("backward_seconds_per_token");
  c.update = number("update_seconds_per_parameter");
  c.link = {number("latency_seconds"), number("bytes_per_second")};
  c.flops_per_token = number("flops_per_token");
  c.parameters = number("parameters");
  c.cores = static_cast<int64_t>(std::max(1.0, number("cores")));
  c.cores_a_rank = number("cores_a_rank");
  return c;
}

}  // namespace rwkv
