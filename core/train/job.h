// What a recipe becomes on this machine: backend, types, threads, mesh.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/config/recipe.h"
#include "core/model/block.h"
#include "core/plan/mesh_shape.h"
#include "core/train/seat.h"
#include "parallel/communicator.h"
#include "parallel/device_ranks.h"

namespace rwkv {

// Backend and types for a precision. `note`: one line when the machine cannot do what was asked
// for.
struct Machine {
  const Backend* ops = nullptr;
  DeviceLink link = {};                        // with the GPU that was chosen
  std::shared_ptr<const Buffer> scratch = {};  // Stream::scratch
  int64_t tokens_a_pass = kTokensAPass;        // about, where train.micro_batch is auto
  bool keeps_mixes = true;  // false: as under train.recompute: norms, to the same bits
  int cores = 1;            // of the host, for this rank's own work
  Precision precision;
  std::string precision_name;  // what is really computed: "bf16", "fp16", ...
  int threads = 1;
  bool scales_loss = false;  // gradients are of a type that overflows (fp16)
  std::string note;
  int64_t leaf = 0;      // parallel.leaf under exact reduction; 0: fast
  int64_t tile = 0;      // under exact: a divisor of the leaf, that no chunk's edge cuts a tile
  std::string numerics;  // id of everything that the bits of a result depend on

  Stream stream() const;
};
// Ranks on a host share its cores. InputError where the recipe wants a GPU and there is none.
Machine choose_machine(const Recipe&, const Seat&);

// InputError where the backend has no kernels for the model.
void require_kernels(const Backend&, const ModelConfig&);

// All ranks compute on the same kind of backend and in the same types, or AgreedError says which
// rank does not; on CPUs with the best instruction set that all of them have, as bits of sums
// depend on it. Collective.
void settle_alike(Communicator& ranks, Machine&);
// The first of the first list that is in all of them; lists of words apart by spaces.
std::string first_common(const std::vector<std::string>& lists);

// AgreedError with these words, a bad input, where ranks give different values. Collective.
void require_same(Communicator& ranks, uint64_t value, const std::string& otherwise);

// Of a host's cores, for each of the ranks on it: less than one where they are more. Threads beyond
// parallel.threads are not used.
double cores_a_rank(const Recipe&, int64_t cores, int local_ranks);

// Cores that this process may use.
int available_cores();

}  // namespace rwkv
