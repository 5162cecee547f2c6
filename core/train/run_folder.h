// The folder of a run: lock, config.yaml, metrics.jsonl, checkpoints/, report.html.
#pragma once

#include <memory>
#include <string>

#include "core/base/posix_file.h"
#include "core/config/recipe.h"

namespace rwkv {

class RunFolder {
 public:
  // Makes the folder and locks it. Rank 0 only. InputError when another job holds it.
  explicit RunFolder(const std::string& path);

  const std::string& path() const { return path_; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  void write_config(const Recipe&) const;
  // Makes room for a run from its start. Checkpoints of an earlier run and all that belongs to them
  // move to before-1 (-2, ...), a run folder of its own; metrics without a checkpoint are removed.
  void start_afresh() const;

 private:
  std::string path_;
  FileLock lock_;
};

// Where a run goes on. `checkpoint` is empty for a fresh start.
struct ResumePoint {
  std::string checkpoint;  // a step-N folder
  int64_t step = 0;        // updates done
  int64_t tokens = 0;
  bool own = false;       // the checkpoint is one of run.dir: its metrics go on too
  bool finished = false;  // nothing is left to do
};

// By run.resume: never; auto (the newest checkpoint of run.dir); PATH of a run folder or a step-N,
// from which a fresh run.dir starts, and which later starts of the same recipe go on with.
// Reads only. InputError when model, data, seed, batch or optimizer differ from the checkpoint's,
// naming the first key that does, or when PATH is given and run.dir holds another run.
ResumePoint find_resume_point(const Recipe&);

// The first key of `now` that must be as in `before` and is not; empty: all match.
std::string changed_key(const Recipe& before, const Recipe& now);

}  // namespace rwkv
