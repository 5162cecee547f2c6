// SOURCE of eval and generate: a run folder, a checkpoint, or a .pth.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model/model.h"
#include "core/train/job.h"

namespace rwkv {

// A model loaded for use. The recipe is that of the run (overridden by key=value), or, for a .pth,
// what key=value says; the model's shape is that of the weights, the mesh what key=value says.
struct LoadedSource {
  Recipe recipe;
  Machine machine;
  std::unique_ptr<Model> model;
  std::unique_ptr<ParamStore> store;

  Pass pass() const { return {machine.stream(), *machine.ops, machine.leaf, machine.tile}; }
};

// The recipe of a SOURCE alone. Not collective. InputError when SOURCE or an override is bad.
Recipe source_recipe(const std::string& source, const std::vector<std::string>& overrides);

// recipe: that of source_recipe(). Not collective. InputError when SOURCE is bad.
LoadedSource load_source(const std::string& source, const Recipe&, const Seat&);

// Each rank has read for itself, through a view of its own of the file system: AgreedError where
// what they have read differs. Collective.
void require_same_weights(Communicator&, const LoadedSource&, const std::string& source);

}  // namespace rwkv
