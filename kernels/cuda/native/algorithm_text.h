// Algorithms of products as text: a first line that says which library and GPU they are of, then a
// line a shape. The library allows its descriptions to be stored and used again by the same
// version.
#pragma once

#include <map>
#include <string>

#include <product_plan.h>

namespace rwkv::cuda {

using AlgorithmTable = std::map<ProductShape, cublasLtMatmulAlgo_t>;

std::string write_algorithms(const std::string& id, const AlgorithmTable&);
// Returns in a few words why the text cannot be used here; empty: `table` is filled.
std::string read_algorithms(const std::string& text, const std::string& id, AlgorithmTable& table);

}  // namespace rwkv::cuda
