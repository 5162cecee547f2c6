// index.h5 of a checkpoint, its hash in index.xxh3 beside it, and the files that it vouches for;
// internal to core/io.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/io/checkpoint.h"
#include "core/io/hdf5_file.h"

namespace rwkv {

// What a rank file holds of each of its pieces: the weight, and in training AdamW's moments.
inline constexpr std::string_view kCheckpointKinds[] = {"weights", "moment1", "moment2"};

// A checkpoint that this version cannot judge; not one that is damaged.
class NewerFormat : public InputError {
 public:
  using InputError::InputError;
};

struct StoredFile {
  int64_t bytes = 0;
  uint64_t hash = 0;  // XXH3, 64 bits
};

// Elements [begin, end) of parameter `param` stand in rank file `file`.
struct StoredExtent {
  int64_t file = 0;
  size_t param = 0;
  int64_t begin = 0, end = 0;
};

struct CheckpointIndex {
  CheckpointInfo info;
  DType dtype = DType::kF32;  // of all weights and moments
  bool moments = false;
  std::vector<double> scales;  // of exact sums, one a parameter; empty: gradients were floats
  std::vector<std::pair<std::string, Shape>> params;
  std::vector<StoredFile> files;
  std::vector<StoredExtent> extents;  // tile every parameter; at most one a file and parameter
};

std::string rank_file(int64_t rank);  // "rank-0.h5"
std::string dataset_name(std::string_view kind, std::string_view param);
StoredFile digest_file(const std::string& path);  // reads all of it

// Both files, synced; the folder is not.
void write_index(const std::string& folder, const CheckpointIndex&);

// Throws NewerFormat, or InputError naming file and fault. A folder named step-N must hold step N.
CheckpointIndex read_index(const std::string& step_folder);

// Opens a rank file whose bytes are found to be those that were written, and which says that it is
// of the index's run and step. InputError names file and fault.
Hdf5File open_rank_file(const std::string& step_folder, const CheckpointIndex&, int64_t file);

}  // namespace rwkv
