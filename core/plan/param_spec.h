// One row per parameter: name, shape, how it starts, how it is trained. The official recipe as
// data.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/tensor.h"

namespace rwkv {

// How a parameter starts (docs: reference table in core/plan/param_table.cpp).
enum class Init : uint8_t {
  kConstant,    // value
  kUniform,     // U(-value, value)
  kOrthogonal,  // gain `value`
  kPerChannel,  // `channels` holds one value a channel
};

// The smallest piece of a parameter that an optimizer may not split.
enum class Atom : uint8_t { kElement, kRow, kMatrix };

struct ParamSpec {
  std::string name;  // official name
  Shape shape;       // official shape, [out, in] for linear weights
  int block = -1;    // layer; -1: outside the blocks
  Init init = Init::kConstant;
  double value = 0;
  std::vector<double> channels;
  double lr_scale = 1;   // 2 for att.w0
  bool decay = false;    // weight decay applies
  bool product = false;  // operand of a matrix product: computed in the compute type
  Atom atom = Atom::kElement;
};

// A contiguous piece of a parameter, elements [begin, end), that one rank holds or writes.
struct Extent {
  int param;
  int64_t begin, end;
};

// Splits all parameters, in order, into `parts` runs of nearly equal element counts and returns
// part `index`. Deterministic; the parts tile every parameter exactly.
std::vector<Extent> shard(std::span<const ParamSpec>, int parts, int index);

int64_t count_elements(std::span<const ParamSpec>);

}  // namespace rwkv
