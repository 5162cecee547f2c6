// The file of `eval --dump`: loss (sequences, T), logits (sequences, T, V) float32, and
// state/<layer>/{att_shift, ffn_shift, wkv} after the last token.
#pragma once

#include <optional>
#include <string>

#include "core/io/hdf5_file.h"
#include "core/model/model.h"

namespace rwkv {

class Dump {
 public:
  // Writes to FILE.tmp until commit(). The workspace must outlive this.
  Dump(const std::string& path, const Model&, Precision, const Workspace&, int64_t samples,
       bool logits);
  // Removes what was written when commit() was not reached.
  ~Dump();
  Dump(const Dump&) = delete;
  Dump& operator=(const Dump&) = delete;

  // Where the model puts the logits of a micro-batch; empty: not wanted.
  Tensor logits() const { return logits_; }
  // The first `count` samples of the workspace are samples first ...
  void add(int64_t first, int64_t count);
  // Replaces FILE.
  void commit();

 private:
  void write(const std::string& name, int64_t first, const Tensor& rows);

  std::string path_, temporary_;
  const Model& model_;
  const Workspace& ws_;
  std::optional<Hdf5File> file_;
  Buffer buffer_;
  Tensor logits_;
  bool committed_ = false;
};

}  // namespace rwkv
