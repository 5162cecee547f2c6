// Whether what is planned fits, before the first of it is taken.
#pragma once

#include <vector>

#include "core/base/arena.h"
#include "core/train/job.h"

namespace rwkv {

// Throws InputError with the plan's table and the keys that change it where `memory` says that it
// has less free than all of the entries want.
void require_room(const Memory& memory, const std::vector<Arena::Entry>& entries);

// About how many tokens a pass may have where train.micro_batch is auto (Machine::tokens_a_pass):
// on a device the most, up to a limit, whose plan for rank 0 of `mesh` takes nine tenths of what is
// free. Under train.recompute: none mixes are kept (Machine::keeps_mixes) unless passes can be
// longer without. Not collective: ranks must agree on the least.
void fit_passes(const Recipe&, Machine&, const MeshShape& mesh);

}  // namespace rwkv
