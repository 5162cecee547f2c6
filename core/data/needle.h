// The generator "needle": facts at the start, asked for near them, far from them and at the
// sample's end.
#pragma once

#include "core/data/sample_writer.h"

namespace rwkv {

// Indices of a question's skill: in the first eighth of the sample, later, at its end.
enum NeedleSkill : int32_t { kNear = 0, kFar = 1, kNeedle = 2 };

// "A7 B2 C9 D4. B?2 A?7 B?2 ... birds sing. a cat sat. C?9 ..." Four letters hold a digit each, any
// equally likely. Questions for any of them fill an eighth of the sample: they teach how to look a
// letter up. Then come sentences that say nothing, and behind a quarter, a half and three quarters
// of the sample, and as its last three bytes, a letter is asked for, each once, in any order: who
// answers the last one has kept it for seven eighths of the sample.
// The account of nats takes the places of questions as known.
void fill_needle(SampleWriter& out);

}  // namespace rwkv
