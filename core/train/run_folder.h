// The folder of a run: lock, config.yaml, metrics.jsonl, checkpoints/, report.html.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/base/posix_file.h"
#include "core/config/recipe.h"
#include "core/plan/loss_scale.h"
#include "parallel/communicator.h"

namespace rwkv {

class RunFolder {
 public:
  // Makes the folder and locks it. Rank 0 only. InputError when another job holds it.
  explicit RunFolder(const std::string& path);

  const std::string& path() const { return path_; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  void write_config(const Recipe&) const;
  // Algorithms of products, for people: a run goes on with its checkpoint's. Empty: no file.
  void write_products(const std::string& text) const;
  // Makes room for a run from its start. Checkpoints of an earlier run and all that belongs to them
  // move to before-1 (-2, ...), a run folder of its own; metrics without a checkpoint are removed.
  void start_afresh() const;

 private:
  std::string path_;
  FileLock lock_;
};

// Where a run goes on. `checkpoint` is empty for a fresh start.
struct ResumePoint {
  std::string checkpoint;  // a step-N folder, found good
  std::string run_id;      // of the run that goes on; empty: a run of its own begins
  int64_t step = 0;        // updates done
  int64_t tokens = 0;
  std::string numerics;  // of what computed it
  std::string products;  // what its products were computed by; empty: nothing is said
  int64_t tokens_a_pass = 0, data_tokens = 0;  // CheckpointInfo's
  std::optional<LossScale> loss_scale;
  int64_t repeated_passes = 0;  // of the run so far
  bool own = false;             // the checkpoint is one of run.dir: its metrics go on too
  bool finished = false;        // nothing is left to do
  // Newer checkpoints of run.dir that were found damaged, newest first; and in one line each what
  // is wrong with these, or that one is lost ("checkpoint step-40: rank-1.h5: missing").
  std::vector<std::string> damaged, faults;
};

// By run.resume: never; auto (the newest good checkpoint of run.dir); PATH
// of a run folder or a step-N, from which a fresh run.dir starts, and which later starts of the
// same recipe go on with. Reads only. The ranks share out the files to check, and a checkpoint is
// good when all of them say so. Collective; throws AgreedError of code kBadInput when all
// checkpoints of run.dir are damaged or the one of PATH is, naming the newest's fault; when model,
// data, seed, batch or optimizer differ from the checkpoint's, naming the first key that does; when
// PATH is given and run.dir holds another run.
ResumePoint find_resume_point(const Recipe&, Communicator& ranks);

// The first key of `now` that must be as in `before` and is not; empty: all match.
std::string changed_key(const Recipe& before, const Recipe& now);

}  // namespace rwkv
