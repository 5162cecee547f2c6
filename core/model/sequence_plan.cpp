#include "core/model/sequence_plan.h"

#include <algorithm>
#include <cmath>

namespace rwkv {

int64_t SequencePlan::span() const {
  const int64_t groups = segments.groups();
  if (!handing.gradient || !model.backward) return 1;  // nothing is run again
  if (stash != "sqrt") return groups;
  return static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(groups))));
}

int SequencePlan::forward_passes() const {
  if (!handing.gradient || segments.groups() == 1) return 1;
  return spans() == 1 ? 2 : 3;
}

ExchangeLayout exchange_layout(const SequencePlan& plan, const ModelConfig& config) {
  const ModelPlan& m = plan.model;
  return {config.layers,
          m.batch,
          config.width,
          config.head_size,
          m.tile > 0 ? wkv7_tiles(std::min(plan.segments.chunk, plan.segments.tokens), m.tile) : 1,
          m.precision.accumulate};
}

namespace {

// One layer of a group, in one direction. `outermost`: the segment that has nobody to send to, the
// sequence's last one forward, its first one backward; `passes_node`: likewise of a rank's node.
struct LayerBytes {
  const ExchangeKind& kind;
  const ExchangeLayout& layout;
  int ranks;

  int64_t of(bool present, bool outermost, bool passes_node) const {
    if (ranks == 1) return 0;
    const int64_t item = bytes_of(layout.acc);
    const int64_t state = layout.state().elements() * item;
    const int64_t gathered = 2 * layout.maps(layout.tiles).elements() * item;
    const bool sends = present && !outermost;
    const int64_t rows = sends ? kHalos * layout.batch * layout.width * item : 0;
    if (kind.name == "gather") return rows + (ranks - 1) * gathered;
    if (kind.name == "ring") return rows + (sends ? state : 0);
    return rows + (kind.node - 1) * gathered + (passes_node && kind.node < ranks ? state : 0);
  }
};

}  // namespace

Traffic plan_traffic(const SequencePlan& plan, const ExchangeLayout& layout, int rank) {
  Traffic traffic;
  if (plan.whole() || !plan.handing.state) return traffic;
  const SegmentPlan& all = plan.segments;
  const ExchangeKind kind = plan.exchange.chosen(all.ranks);
  const LayerBytes bytes{kind, layout, all.ranks};
  const int64_t in_a_row = exchange_latency(kind, all.ranks);
  const int64_t again = plan.handing.gradient ? (plan.spans() - 1) * plan.span() : 0;
  const int64_t node_begin = int64_t{rank} / kind.node * kind.node,
                node_end = node_begin + kind.node;
  for (int64_t group = 0; group < all.groups(); ++group) {
    const auto segment = all.at(group, rank);
    const bool first_group = group == 0 && !plan.enters;
    const bool last_group = group + 1 == all.groups();
    const bool works = node_begin < all.segments_of(group);
    const bool to_right = works && !(last_group && node_end >= all.segments_of(group));
    const bool to_left = works && !(first_group && node_begin == 0);
    const int64_t forward_passes = group < again ? 2 : 1;
    traffic.bytes +=
        forward_passes * bytes.of(segment.has_value(), segment && segment->last, to_right);
    traffic.messages += forward_passes * in_a_row;
    if (!plan.handing.gradient) continue;
    const bool first = segment && segment->first && !plan.enters;
    traffic.bytes += bytes.of(segment.has_value(), first, to_left);
    traffic.messages += in_a_row;
  }
  traffic.bytes *= layout.layers;
  traffic.messages *= layout.layers;
  return traffic;
}

}  // namespace rwkv
