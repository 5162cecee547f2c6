// Which ranks work, and on which GPU: one rank a GPU, whatever a launcher shows to whom.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/config/recipe.h"
#include "parallel/communicator.h"

namespace rwkv {

struct Seat {
  HostPlace place = {};  // among the ranks of this host that work
  int device = 0;        // CUDA's number of the rank's GPU in its process, where it has one
};

// Of ranks in turn, each the first device that it sees and no rank before it has taken, as an index
// into what it sees; kNoDevice where none is left. visible: ids of devices, rank by rank.
inline constexpr int kNoDevice = -1;
std::vector<int> share_out_devices(const std::vector<std::vector<std::string>>& visible);

// Whether this rank's work is for a GPU. InputError where the recipe wants one and there is none.
bool wants_gpu(const Recipe&);

// Runs `work` on the ranks that work, which get a communicator of their own: all, but for those
// that would run on GPUs and find none left (parked). Rank 0 works always. The others wait for what
// it returns, or the AgreedError that it throws on all of them. Collective over `world`.
int64_t on_seats(Communicator& world, const Recipe&,
                 const std::function<int64_t(Communicator& workers, const Seat&)>& work);

}  // namespace rwkv
