// Checkpoints: step-N/ holds one HDF5 file a rank with that rank's extents of every tensor, and
// index.h5 with the extents, the step and the recipe. The layout does not depend on the number of
// ranks that read it (docs/checkpoint_format.md).
#pragma once

#include <string>
#include <vector>

#include "core/model/param_store.h"
#include "parallel/communicator.h"

namespace rwkv {

inline constexpr int64_t kCheckpointVersion = 1;

struct CheckpointInfo {
  int64_t step = 0;      // updates done
  int64_t tokens = 0;    // tokens trained on
  std::string recipe;    // resolved YAML
  std::string numerics;  // id of what computed it
  uint64_t weights_hash = 0;
};

// Writes FOLDER/step-N: into a temporary folder that is renamed when all of it is on the disk, then
// FOLDER/latest, then removes all but the newest `keep` (0: keep all). Collective; throws
// AgreedError and leaves what was there before when any rank fails.
void save_checkpoint(const std::string& folder, const CheckpointInfo&, const ParamStore&,
                     int64_t keep, Communicator&);

// What index.h5 of a step-N folder says. InputError when it is not one or of a newer version.
CheckpointInfo read_checkpoint_info(const std::string& step_folder);

// Fills masters, and moments when the store trains and the flag says so. Every parameter must be
// there with its shape: InputError names the first that is not. Any rank, not collective.
void load_checkpoint(const std::string& step_folder, ParamStore&, bool moments);

// Name and shape of every parameter.
std::vector<std::pair<std::string, Shape>> checkpoint_shapes(const std::string& step_folder);

// The newest RUN/checkpoints/step-N; empty: none. (`latest` is for people and scripts.)
std::string latest_checkpoint(const std::string& run_folder);

// Whether `path` is a step-N folder (it holds index.h5).
bool is_checkpoint(const std::string& path);

}  // namespace rwkv
