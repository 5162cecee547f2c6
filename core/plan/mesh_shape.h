// Which ranks work on what. Pure: no device, no MPI.
#pragma once

#include <cstdint>
#include <string>

#include "core/config/recipe.h"

namespace rwkv {

// data x sequence ranks; those left over are parked: they hold nothing and wait for the end.
struct MeshShape {
  int data = 1;
  int sequence = 1;
  int parked = 0;

  int active() const { return data * sequence; }  // at most the job's ranks
  // Ranks of a data group follow one another.
  int data_group(int rank) const { return rank / sequence; }
  int place(int rank) const { return rank % sequence; }  // in the sequence
};

// auto: data = min(ranks, batch), sequence = as many of the others as leave each rank a leaf (and
// give it a chunk), with segments of whole leaves where sums are exact (leaf > 0). Throws
// InputError when given values ask for more ranks than there are, or for more data ranks than
// sequences.
MeshShape plan_mesh(const Recipe&, int ranks, int64_t leaf);

// Samples of a step that data group d owns: [floor(d B / D), floor((d + 1) B / D)).
struct Share {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};
Share share_of(int64_t batch, int groups, int group);

inline constexpr int64_t kTokensAPass = 8192;
// Sequences a pass: the recipe's, or as many as hold about `tokens_a_pass`, evened out over the
// passes.
int64_t plan_micro_batch(const Recipe&, int64_t share, int sequence = 1,
                         int64_t tokens_a_pass = kTokensAPass);

}  // namespace rwkv
