// Choices among ways to make a product as text: a first line that says which library and GPU they
// are of, then a line a shape. The library allows its descriptions to be stored and used again by
// the same version.
#pragma once

#include <map>
#include <string>

#include <product_plan.h>

namespace rwkv::cuda {

// A product with relu squared behind it: c (rows, columns), and how long its sums are.
struct ReluSquaredShape {
  int64_t rows, columns, sum;
  bool backward;
  auto operator<=>(const ReluSquaredShape&) const =
      default;  // NOLINT(modernize-use-nullptr): clang-tidy 14
};

struct ProductTable {
  std::map<ProductShape, cublasLtMatmulAlgo_t> algorithms;
  std::map<ReluSquaredShape, bool> fused;  // in one kernel; false: in two
};

std::string write_choices(const std::string& id, const ProductTable&);
// Returns in a few words why the text cannot be used here; empty: `table` is filled.
std::string read_choices(const std::string& text, const std::string& id, ProductTable& table);

}  // namespace rwkv::cuda
