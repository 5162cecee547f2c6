#include "core/io/weight_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/io/checkpoint.h"

namespace rwkv {
namespace {

// The shape without dimensions of size 1: [1, 1, C] and [C] are the same parameter.
std::vector<int64_t> squeezed(const Shape& shape) {
  std::vector<int64_t> out;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape[i] != 1) out.push_back(shape[i]);
  }
  return out;
}

Shape shape_of(const NamedTensor& tensor, const std::string& path) {
  if (tensor.shape.size() > 6) {
    throw InputError(path + ": " + tensor.name + " has more than 6 dimensions");
  }
  Shape shape;
  for (int64_t d : tensor.shape) shape.dim[static_cast<size_t>(shape.rank++)] = d;
  return shape;
}

bool unused_by_design(const std::string& name) {
  return name == "blocks.0.att.v0" || name == "blocks.0.att.v1" || name == "blocks.0.att.v2";
}

}  // namespace

WeightFile::WeightFile(const std::string& path) : path_(path) {
  if (path.ends_with(".safetensors")) throw InputError(path + ": .safetensors: not yet");
  if (std::filesystem::is_directory(path)) {
    checkpoint_ = is_checkpoint(path) ? path : latest_checkpoint(path);
    if (checkpoint_.empty()) {
      throw InputError(path +
                       ": holds no checkpoint (a run folder or a checkpoints/step-N is wanted)");
    }
    shapes_ = checkpoint_shapes(checkpoint_);
    return;
  }
  if (!path.ends_with(".pth")) {
    throw InputError(path + ": not a run folder, a checkpoint or a .pth file");
  }
  tensors_ = read_pth(path);
  for (const auto& [name, tensor] : tensors_) shapes_.emplace_back(name, shape_of(tensor, path));
}

const Shape* WeightFile::shape(const std::string& name) const {
  const auto found = std::find_if(shapes_.begin(), shapes_.end(),
                                  [&](const auto& entry) { return entry.first == name; });
  return found == shapes_.end() ? nullptr : &found->second;
}

const Shape& WeightFile::need(const std::string& name) const {
  const Shape* found = shape(name);
  if (found == nullptr) {
    throw InputError(path_ + ": has no " + name + ": not the weights of an RWKV-7 model");
  }
  return *found;
}

ModelConfig WeightFile::model(ModelConfig given) const {
  const auto fill = [&](const char* key, int64_t& field, int64_t found) {
    if (field != 0 && field != found) {
      throw InputError(fmt::format("model.{} is {}, but {} has {}", key, field, path_, found));
    }
    field = found;
  };
  const auto dimension = [&](const std::string& name, int which) {
    const Shape& s = need(name);
    if (s.rank != 2) throw InputError(path_ + ": " + name + " is not a matrix");
    return s[which];
  };
  int64_t layers = 0;
  while (shape(fmt::format("blocks.{}.ln1.weight", layers)) != nullptr) ++layers;
  fill("layers", given.layers, layers);
  fill("vocab", given.vocab, dimension("emb.weight", 0));
  fill("width", given.width, dimension("emb.weight", 1));
  fill("ffn_width", given.ffn_width, dimension("blocks.0.ffn.key.weight", 0));
  fill("head_size", given.head_size, dimension("blocks.0.att.r_k", 1));
  fill("lora_rank.decay", given.lora_rank.decay, dimension("blocks.0.att.w1", 1));
  fill("lora_rank.iclr", given.lora_rank.iclr, dimension("blocks.0.att.a1", 1));
  fill("lora_rank.gate", given.lora_rank.gate, dimension("blocks.0.att.g1", 1));
  if (layers > 1) fill("lora_rank.value", given.lora_rank.value, dimension("blocks.1.att.v1", 1));
  if (layers == 1 && given.lora_rank.value == 0) given.lora_rank.value = 32;  // no layer has one
  if (given.head_size < 8 || given.width % given.head_size != 0) {
    throw InputError(fmt::format("{}: blocks.0.att.r_k gives heads of {}, which do not divide {}",
                                 path_, given.head_size, given.width));
  }
  return given;
}

void WeightFile::load(ParamStore& store) const {
  if (!checkpoint_.empty()) return load_checkpoint(checkpoint_, store, false);
  for (size_t i = 0; i < store.size(); ++i) {
    const ParamSpec& spec = store.specs()[i];
    if (squeezed(need(spec.name)) != squeezed(spec.shape)) {
      throw InputError(fmt::format("{}: {} has shape {}, the model wants {}", path_, spec.name,
                                   to_string(need(spec.name)), to_string(spec.shape)));
    }
    const std::vector<float>& values = tensors_.at(spec.name).values;
    const Tensor master = store.master(i);
    if (master.dtype == DType::kF64) {  // the reference backend's: on the host
      std::copy(values.begin(), values.end(), master.as<double>());
    } else {
      copy(store.memory(), {}, master, view_of(values.data(), master.shape));
    }
  }
  for (const auto& [name, tensor] : tensors_) {
    if (store.find(name) < 0 && !unused_by_design(name)) {
      throw InputError(path_ + ": unknown parameter " + name);
    }
  }
}

}  // namespace rwkv
