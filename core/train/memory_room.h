// Whether what is planned fits, before the first of it is taken.
#pragma once

#include <vector>

#include "core/base/arena.h"
#include "core/train/job.h"

namespace rwkv {

// Throws InputError with the plan's table and the keys that change it where `memory` says that it
// has less free than all of the entries want, beside what libraries take on a device.
void require_room(const Memory& memory, const std::vector<Arena::Entry>& entries);

// About how many tokens a pass may have where train.micro_batch is auto (Machine::tokens_a_pass):
// on a device the most, up to a limit, whose plan for the fullest rank of `mesh` takes nine tenths
// of what is free, and leaves NCCL what it wants. Under train.recompute: none mixes are kept
// (Machine::keeps_mixes) unless passes can be longer without. Not collective: ranks must agree on
// the least.
inline constexpr int64_t kMostTokensAPass = 65536;
void fit_passes(const Recipe&, const ModelConfig&, Machine&, const MeshShape& mesh,
                int64_t most = kMostTokensAPass);
// The same on all ranks; under fast sums, whose bits depend on it, a pass has no more tokens than
// those of the checkpoint that a run goes on from (0: none or not known). Collective.
void settle_passes(const Recipe&, const ModelConfig&, Machine&, const MeshShape& mesh,
                   int64_t checkpoints_tokens, Communicator& ranks);
// What fit_passes() has settled, for a run that goes on to keep to, as bits may depend on it; 0:
// nothing.
int64_t fitted_tokens(const Recipe&, const Machine&);

}  // namespace rwkv
