// Checkpoints: step-N/ holds one HDF5 file a rank with that rank's extents of every tensor, and
// index.h5 with the extents, the step, the recipe, and size and hash of every file. Bytes are
// checked against those before the HDF5 library sees them. The layout does not depend on the number
// of ranks that read it (docs/checkpoint_format.md).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/model/param_store.h"
#include "core/plan/loss_scale.h"
#include "parallel/communicator.h"

namespace rwkv {

inline constexpr int64_t kCheckpointVersion = 2;

struct CheckpointInfo {
  int64_t step = 0;      // updates done
  int64_t tokens = 0;    // tokens trained on
  std::string recipe;    // resolved YAML
  std::string numerics;  // id of what computed it
  std::string run_id;    // of the run folder, from its first step to its last; the same on all
                         // ranks
  int64_t repeated_passes =
      0;                      // of the run so far: an exact sum's term did not fit, fp16 overflowed
  std::string products = {};  // algorithms of products, as the backend writes them; empty: none
  int64_t tokens_a_pass = 0;  // of each pass, about, where free memory decided; 0: it did not
  int64_t data_tokens = 0;    // of the training data; 0: it is generated, or not known
  std::optional<LossScale> loss_scale = {};  // of the next step; none: nothing is scaled
  uint64_t weights_hash = 0;                 // ParamStore::hash(); filled by save_checkpoint()
};

// A new run_id: 16 random hexadecimal digits.
std::string make_run_id();

// Writes FOLDER/step-N: into a temporary folder that is renamed when all of it is on the disk, then
// FOLDER/latest, then removes all but the newest `keep` (0: keep all) up to this step. Collective;
// throws AgreedError when any rank fails, and leaves the earlier checkpoints and nothing else.
// FOLDER must be locked by this job: what others left unfinished there is removed.
void save_checkpoint(const std::string& folder, const CheckpointInfo&, const ParamStore&,
                     int64_t keep, Communicator&);

// The same in two parts, with training in between: this rank's file is written by a thread of its
// own, which does not communicate.
class PendingCheckpoint {
 public:
  // Copies what this rank writes. Collective; throws AgreedError as save_checkpoint() does.
  PendingCheckpoint(const std::string& folder, const CheckpointInfo&, const ParamStore&,
                    int64_t keep, Communicator&);
  PendingCheckpoint(const PendingCheckpoint&) = delete;
  PendingCheckpoint& operator=(const PendingCheckpoint&) = delete;
  // Waits for the thread; without finish() the checkpoint does not count.
  ~PendingCheckpoint();

  int64_t step() const;
  // Whether this rank's file is on the disk, or failed. Never blocks.
  bool written() const;
  // Waits for all ranks' files; from here on the checkpoint counts. Collective; throws AgreedError.
  void finish();

 private:
  friend void save_checkpoint(const std::string&, const CheckpointInfo&, const ParamStore&, int64_t,
                              Communicator&);
  static void write_now(const std::string& folder, const CheckpointInfo&, const ParamStore&,
                        int64_t keep, Communicator&);

  struct Work;
  std::unique_ptr<Work> work_;
};

// What index.h5 of a step-N folder says. InputError when it is not one, is damaged, or is of a
// newer version.
CheckpointInfo read_checkpoint_info(const std::string& step_folder);

// Fills masters, and moments and the scales of exact sums when the store trains and the flag says
// so. Every parameter must be
// there with its shape: InputError names the first that is not, or the first file that is damaged.
// Any rank, not collective.
void load_checkpoint(const std::string& step_folder, ParamStore&, bool moments);

// Name and shape of every parameter.
std::vector<std::pair<std::string, Shape>> checkpoint_shapes(const std::string& step_folder);

// What verify_checkpoint() found.
struct CheckpointState {
  std::string fault;  // "rank-1.h5: content changed (...)"; empty: good, and the rest is filled
  CheckpointInfo info;
  int64_t files = 0;  // index.h5 and one a rank
  int64_t bytes = 0;  // of these
};

// Checks the index and every `parts`-th file from `part` on: bytes, names, types, shapes; with one
// part also the hash of all weights. Writes nothing. Throws only for a checkpoint of a newer
// version, which is no fault: InputError. Any rank, not collective.
CheckpointState verify_checkpoint(const std::string& step_folder, int part = 0, int parts = 1);

// All RUN/checkpoints/step-N, good or not, oldest first.
std::vector<std::string> checkpoints_of(const std::string& run_folder);

// The last of these; empty: none.
std::string latest_checkpoint(const std::string& run_folder);

// What RUN/checkpoints/latest names when it is not there, nor anything newer: it was lost whole.
// Empty: nothing is known to be lost. (Otherwise `latest` is for people and scripts.)
std::string lost_checkpoint(const std::string& run_folder);
inline constexpr const char* kLostFault = "missing, though `latest` names it";

// Whether `path` is to be taken for a step-N folder: it has that name, or holds index.h5.
bool is_checkpoint(const std::string& path);

// Renames each step-N of `damaged` to step-N.damaged, so that it is neither resumed from nor
// counted as one that is kept, and makes `latest` name `used`, another checkpoint of the same run
// folder. The run folder must be locked by this job.
void set_checkpoints_aside(const std::vector<std::string>& damaged, const std::string& used);

}  // namespace rwkv
