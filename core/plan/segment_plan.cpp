#include "core/plan/segment_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"

namespace rwkv {

int64_t SegmentPlan::segments_of(int64_t group) const {
  return std::min<int64_t>(ranks, segments() - group * ranks);
}

Segment SegmentPlan::segment(int64_t index) const {
  Segment s;
  s.index = index;
  s.group = index / ranks;
  s.owner = static_cast<int>(index % ranks);
  s.begin = index * chunk;
  s.end = std::min(tokens, s.begin + chunk);
  s.first = index == 0;
  s.last = index + 1 == segments();
  s.run_begin = s.first ? 0 : s.begin - overlap;
  s.handed = s.last ? s.end : s.end - overlap;
  return s;
}

std::optional<Segment> SegmentPlan::at(int64_t group, int rank) const {
  if (rank >= segments_of(group)) return std::nullopt;
  return segment(group * ranks + rank);
}

int64_t SegmentPlan::most_tokens() const {
  if (segments() == 1) return tokens;
  const Segment last = segment(segments() - 1);
  return std::max({chunk, last.tokens(), segments() > 2 ? chunk + overlap : 0});
}

int SegmentPlan::fullest_rank() const {
  const int64_t most = most_tokens();
  for (int64_t index = 0; index < std::min<int64_t>(segments(), 3); ++index) {
    if (segment(index).tokens() == most) return segment(index).owner;
  }
  return segment(segments() - 1).owner;
}

SegmentPlan plan_segments(int64_t tokens, int ranks, int64_t chunk, int64_t overlap, int64_t leaf) {
  SegmentPlan plan{tokens, ranks, chunk, overlap};
  const int64_t step = std::max<int64_t>(1, leaf);
  if (chunk == 0) {
    const int64_t share = (tokens + ranks - 1) / ranks;
    plan.chunk = ranks == 1 ? tokens : (share + step - 1) / step * step;
  } else if (chunk % step != 0) {
    const int64_t below = chunk / step * step;
    throw InputError(fmt::format(
        "train.chunk {}: parallel.reduction exact needs a multiple of parallel.leaf ({}): {}{}",
        chunk, step, below > 0 ? fmt::format("{} or ", below) : "", below + step));
  }
  if (plan.segments() > 1 && overlap > plan.chunk) {
    throw InputError(
        fmt::format("train.overlap {}: longer than a segment of {} tokens; use at most that many",
                    overlap, plan.chunk));
  }
  if (plan.segments() == 1) plan.overlap = 0;
  return plan;
}

Handing plan_handing(const Recipe& recipe) {
  const bool state = recipe.train.handoff == "state";
  return {state, state && recipe.train.gradient == "exact"};
}

}  // namespace rwkv
