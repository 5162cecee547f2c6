#include "core/plan/mesh_shape.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"

namespace rwkv {
namespace {

// The most of so many ranks that all have a segment.
int64_t ranks_with_segments(const TrainConfig& train, int64_t most, int64_t leaf) {
  if (train.chunk > 0) return std::min(most, (train.context + train.chunk - 1) / train.chunk);
  const auto all_have_one = [&](int64_t ranks) {
    const int64_t step = std::max<int64_t>(1, leaf), share = (train.context + ranks - 1) / ranks;
    const int64_t chunk = (share + step - 1) / step * step;
    return (train.context + chunk - 1) / chunk == ranks;
  };
  while (most > 1 && !all_have_one(most)) --most;
  return most;
}

}  // namespace

MeshShape plan_mesh(const Recipe& recipe, int ranks, int64_t leaf) {
  const ParallelConfig& given = recipe.parallel;
  MeshShape mesh;
  const int64_t given_sequence = std::max<int64_t>(1, given.sequence);
  const int64_t room = std::max<int64_t>(1, ranks / given_sequence);
  mesh.data = static_cast<int>(given.data > 0 ? given.data : std::min(room, recipe.train.batch));
  const int64_t whole_leaves = std::max<int64_t>(1, recipe.train.context / given.leaf);
  const int64_t left = std::clamp<int64_t>(ranks / mesh.data, 1, whole_leaves);
  mesh.sequence = static_cast<int>(
      given.sequence > 0 ? given.sequence : ranks_with_segments(recipe.train, left, leaf));
  if (mesh.data > recipe.train.batch) {
    throw InputError(fmt::format(
        "parallel.data = {}: a step has only {} sequences (train.batch); use at most that many "
        "data ranks",
        mesh.data, recipe.train.batch));
  }
  const int64_t wanted = int64_t{mesh.data} * mesh.sequence;
  if (wanted > ranks) {
    throw InputError(fmt::format(
        "parallel.data x parallel.sequence = {} x {} = {} ranks, but the job has {}: start more "
        "ranks (mpirun -n {}) or lower one of the keys",
        mesh.data, mesh.sequence, wanted, ranks, wanted));
  }
  mesh.parked = ranks - mesh.active();
  return mesh;
}

Share share_of(int64_t batch, int groups, int group) {
  return {group * batch / groups, (group + 1) * batch / groups};
}

int64_t plan_micro_batch(const Recipe& recipe, int64_t share, int sequence, int64_t tokens_a_pass) {
  if (recipe.train.micro_batch > 0) return std::min(recipe.train.micro_batch, share);
  const int64_t chunk = recipe.train.chunk;
  int64_t tokens = (recipe.train.context + sequence - 1) / sequence;
  if (chunk > 0) tokens = std::min(tokens, chunk);
  const int64_t fitting = std::max<int64_t>(1, tokens_a_pass / tokens);
  const int64_t passes = (share + fitting - 1) / fitting;
  return (share + passes - 1) / passes;
}

}  // namespace rwkv
