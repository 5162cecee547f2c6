// Weights that somebody trained: an official .pth, a checkpoint, or a run folder.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/config/recipe.h"
#include "core/io/tensor_file.h"
#include "core/model/param_store.h"

namespace rwkv {

class WeightFile {
 public:
  // Reads the shapes (of a .pth: everything). InputError when `path` is none of the three.
  explicit WeightFile(const std::string& path);

  const std::string& path() const { return path_; }
  // A step-N folder when the weights are a checkpoint's; else empty.
  const std::string& checkpoint() const { return checkpoint_; }

  // `given` with every open field filled from the shapes. InputError when a given field contradicts
  // them, naming key and file.
  ModelConfig model(ModelConfig given) const;

  // Fills the masters. Names must match the store's, but for blocks.0.att.v0, v1 and v2, which
  // official files carry and nothing reads; shapes may differ in dimensions of size 1.
  void load(ParamStore&) const;

 private:
  const Shape* shape(const std::string& name) const;
  const Shape& need(const std::string& name) const;

  std::string path_, checkpoint_;
  TensorMap tensors_;
  std::vector<std::pair<std::string, Shape>> shapes_;
};

}  // namespace rwkv
