// The file of `eval --dump`: loss (sequences, T), logits (sequences, T, V) float32, and
// state/<layer>/{att_shift, ffn_shift, wkv} after the last token.
#pragma once

#include <optional>
#include <string>

#include "core/io/hdf5_file.h"
#include "core/model/sequence_runner.h"

namespace rwkv {

class Dump {
 public:
  // Writes to FILE.tmp until commit(). Of one rank; the runner, whose plan leaves states, must
  // outlive this.
  Dump(const std::string& path, const Model&, const SequenceRunner&, int64_t samples, bool logits,
       const Memory&);
  // Removes what was written when commit() was not reached.
  ~Dump();
  Dump(const Dump&) = delete;
  Dump& operator=(const Dump&) = delete;

  // Where the model puts the logits of a segment; empty: not wanted.
  Tensor logits() const { return logits_; }
  // The first `count` samples of a segment are samples first ...
  void add(int64_t first, int64_t count, const SequenceRunner::Result&);
  // Replaces FILE.
  void commit();

 private:
  void write_logits(int64_t sample, int64_t token, const ConstTensor& rows);

  std::string path_, temporary_;
  const Model& model_;
  const SequenceRunner& runner_;
  std::optional<Hdf5File> file_;
  const Memory& memory_;  // of the runner's states and of logits()
  Buffer buffer_, room_;
  Tensor logits_;
  bool committed_ = false;
};

}  // namespace rwkv
