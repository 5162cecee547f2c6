#include "core/plan/mesh_shape.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"

namespace rwkv {
MeshShape plan_mesh(const Recipe& recipe, int ranks) {
  const ParallelConfig& given = recipe.parallel;
  MeshShape mesh;
  const int64_t given_sequence = std::max<int64_t>(1, given.sequence);
  const int64_t room = std::max<int64_t>(1, ranks / given_sequence);
  mesh.data = static_cast<int>(given.data > 0 ? given.data : std::min(room, recipe.train.batch));
  const TrainConfig& train = recipe.train;
  int64_t most = std::max<int64_t>(1, train.context / given.leaf);
  if (train.chunk > 0) most = std::min(most, (train.context + train.chunk - 1) / train.chunk);
  mesh.sequence = static_cast<int>(
      given.sequence > 0 ? given.sequence : std::clamp<int64_t>(ranks / mesh.data, 1, most));
  if (mesh.data > recipe.train.batch) {
    throw InputError(fmt::format(
        "parallel.data = {}: a step has only {} sequences (train.batch); use at most that many "
        "data ranks",
        mesh.data, recipe.train.batch));
  }
  if (mesh.active() > ranks) {
    throw InputError(fmt::format(
        "parallel.data x parallel.sequence = {} x {} = {} ranks, but the job has {}: start more "
        "ranks (mpirun -n {}) or lower one of the keys",
        mesh.data, mesh.sequence, mesh.active(), ranks, mesh.active()));
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
