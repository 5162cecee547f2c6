// Named tensors read from a file somebody else made, and written for others.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/base/arena.h"
#include "core/base/tensor.h"

namespace rwkv {

// A tensor of a file, converted to float32, contiguous.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  DType stored = DType::kF32;  // how the file held it (f16 is given as kF32)
  std::vector<float> values;
};
using TensorMap = std::map<std::string, NamedTensor>;

// A `torch.save` state dict (zip of stored entries and a pickle). Nothing in the file is executed:
// own restricted pickle machine, allow-listed opcodes and globals, every bound checked. A leading
// "_forward_module." of names is dropped. Throws InputError naming the file and what is wrong.
TensorMap read_pth(const std::string& path);

// The same from memory, for tests and fuzzing; `name` is used in messages.
TensorMap parse_pth(std::span<const std::byte> file, const std::string& name);

// A file that torch.load(weights_only=True) and read_pth() accept; dtype kF32 or kBF16.
void write_pth(const std::string& path, const std::vector<NamedTensor>&, DType dtype);

}  // namespace rwkv
