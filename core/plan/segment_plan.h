// A sequence in segments over ranks. Segment s = j P + p belongs to rank p; P segments that follow
// one another make a group, and J groups follow one another. Pure: no device, no MPI.
#pragma once

#include <cstdint>
#include <optional>

#include "core/config/recipe.h"

namespace rwkv {

// Tokens [run_begin, end) of a sequence are run, [begin, end) are counted; those before `begin` are
// the overlap with the left neighbour. What is handed to the right neighbour is what there is
// before token `handed`.
struct Segment {
  int64_t index = 0, group = 0;
  int owner = 0;
  int64_t run_begin = 0, begin = 0, end = 0, handed = 0;
  bool first = false, last = false;  // of the sequence

  int64_t tokens() const { return end - run_begin; }
  bool operator==(const Segment&) const = default;
};

struct SegmentPlan {
  int64_t tokens = 0;  // T
  int ranks = 1;       // P
  int64_t chunk = 0;   // c: tokens of every segment but the last
  int64_t overlap = 0;

  int64_t segments() const { return (tokens + chunk - 1) / chunk; }
  int64_t groups() const { return (segments() + ranks - 1) / ranks; }
  // Segments of a group: those of ranks 0, 1, ...
  int64_t segments_of(int64_t group) const;
  Segment segment(int64_t index) const;
  // The segment of a rank in a group; nullopt: the rank holds nothing there, and joins collectives.
  std::optional<Segment> at(int64_t group, int rank) const;
  // Most tokens that a segment runs, and the first rank that runs one of as many: its memory does
  // for all ranks.
  int64_t most_tokens() const;
  int fullest_rank() const;
};

// chunk 0: ceil(T / P), rounded up to whole leaves. leaf 0: any chunk will do. Throws InputError
// when a chunk is no multiple of the leaf, or the overlap is longer than a segment that is not the
// last.
SegmentPlan plan_segments(int64_t tokens, int ranks, int64_t chunk, int64_t overlap, int64_t leaf);

// Where the recipe's gradient and state may cross an edge of a segment.
struct Handing {
  bool state = true;     // forward; false: a segment starts from zero, after its overlap
  bool gradient = true;  // backward
};
Handing plan_handing(const Recipe&);

}  // namespace rwkv
