#include "core/model/sequence_plan.h"

#include <cmath>

namespace rwkv {

int64_t SequencePlan::block() const {
  const int64_t groups = segments.groups();
  if (!handing.gradient || !model.backward) return 1;  // nothing is run again
  if (stash != "sqrt") return groups;
  return static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(groups))));
}

int SequencePlan::forward_passes() const {
  if (!handing.gradient || segments.groups() == 1) return 1;
  return blocks() == 1 ? 2 : 3;
}

ExchangeLayout exchange_layout(const SequencePlan& plan, const ModelConfig& config) {
  const ModelPlan& m = plan.model;
  return {config.layers,
          m.batch,
          config.width,
          config.head_size,
          m.tile > 0 ? wkv7_tiles(plan.segments.chunk, m.tile) : 1,
          m.precision.accumulate};
}

namespace {

// One layer of a group, in one direction. `outermost`: the segment that has nobody to send to, the
// sequence's last one forward, its first one backward.
int64_t bytes_of_layer(bool gathers, const ExchangeLayout& layout, int ranks, bool present,
                       bool outermost) {
  if (ranks == 1) return 0;
  const int64_t item = bytes_of(layout.acc);
  const bool sends = present && !outermost;
  const int64_t rows = sends ? kHalos * layout.batch * layout.width * item : 0;
  if (gathers) return rows + 2 * (ranks - 1) * layout.maps(layout.tiles).elements() * item;
  return rows + (sends ? layout.state().elements() * item : 0);
}

}  // namespace

Traffic plan_traffic(const SequencePlan& plan, const ExchangeLayout& layout, int rank) {
  Traffic traffic;
  if (plan.whole() || !plan.handing.state) return traffic;
  const SegmentPlan& all = plan.segments;
  const bool gathers = exchange_kind(plan.exchange, all.ranks) == "gather";
  const int64_t in_a_row = exchange_latency(plan.exchange, all.ranks);
  const int64_t again = plan.handing.gradient ? (plan.blocks() - 1) * plan.block() : 0;
  for (int64_t group = 0; group < all.groups(); ++group) {
    const auto segment = all.at(group, rank);
    const bool first = segment && segment->first && !plan.enters;
    const int64_t forward_passes = group < again ? 2 : 1;
    traffic.bytes += forward_passes * bytes_of_layer(gathers, layout, all.ranks,
                                                     segment.has_value(), segment && segment->last);
    traffic.messages += forward_passes * in_a_row;
    if (!plan.handing.gradient) continue;
    traffic.bytes += bytes_of_layer(gathers, layout, all.ranks, segment.has_value(), first);
    traffic.messages += in_a_row;
  }
  traffic.bytes *= layout.layers;
  traffic.messages *= layout.layers;
  return traffic;
}

}  // namespace rwkv
