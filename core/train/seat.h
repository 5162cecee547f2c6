// Which ranks work, and on which GPU: one rank a GPU, whatever a launcher shows to whom.
#pragma once

#include <functional>
#include <optional>
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
// into what it sees; kNoDevice where none is left. visible: ids of devices, rank by rank; an empty
// one is of a device that nobody can use.
inline constexpr int kNoDevice = -1;
std::vector<int> share_out_devices(const std::vector<std::vector<std::string>>& visible);

// Whether this rank's work is for a GPU. InputError where the recipe wants one and there is none.
bool wants_gpu(const Recipe&);

using SeatedWork = std::function<int64_t(Communicator& workers, const Seat&)>;

// Runs `work` on the ranks that work, which get a communicator of their own: all, but for those
// that would take one of `ids` and find none left (parked). Rank 0 works always. The others wait
// for what it returns, or the AgreedError that it throws on all of them. ids: of the devices that
// this rank sees; nullopt: it needs none of its own. AgreedError where rank 0 finds none.
// Collective over `world`.
int64_t on_seats(Communicator& world, const std::optional<std::vector<std::string>>& ids,
                 const SeatedWork& work);

// By what the recipe runs on. Where ranks may share GPUs all work, and take them in turn.
int64_t on_seats(Communicator& world, const Recipe&, const SeatedWork& work);

}  // namespace rwkv
