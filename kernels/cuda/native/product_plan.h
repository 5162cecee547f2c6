// A product of one shape as cuBLASLt is told of it.
#pragma once

#include <cublasLt.h>

#include <memory>
#include <string>
#include <vector>

#include "core/base/dtype.h"

namespace rwkv::cuda {

// The one place where the library's return codes are looked at.
void check(cublasStatus_t code, const std::string& what);

// What an algorithm depends on. m, n, k and the operands are the library's: column-major.
struct ProductShape {
  int64_t m, n, k;
  int64_t b_stride;  // elements from one column of b, as it is stored, to the next
  bool trans_a, trans_b;
  bool adds;      // to what is there
  DType in, out;  // kF32, kBF16 or kF16
  bool whole;     // sums over k are not split
  auto operator<=>(const ProductShape&) const =
      default;  // NOLINT(modernize-use-nullptr): clang-tidy 14
};

// "8 x 16 x 32": rows, sum, columns, as the caller has them.
std::string text_of(const ProductShape&);

// Products of one shape, a stride of elements apart; a stride of 0: the same operand.
struct ProductBatch {
  int64_t count = 1, a = 0, b = 0, c = 0;
  auto operator<=>(const ProductBatch&) const =
      default;  // NOLINT(modernize-use-nullptr): clang-tidy 14
};

struct ProductOperands {
  const void *a, *b;
  void* to;
  const void* add;  // what is added, where the shape adds; may be `to`
};

class ProductPlan {
 public:
  ProductPlan(const ProductShape&, const ProductBatch&);

  // The library's algorithms that need no more than `workspace` bytes, and operands and rows at
  // multiples of 16 bytes, best first by its own judgement. Throws Error when there is none.
  std::vector<cublasLtMatmulAlgo_t> algorithms(cublasLtHandle_t, int64_t workspace) const;
  // Whether the library says that it can run this one.
  bool takes(cublasLtHandle_t, const cublasLtMatmulAlgo_t&, int64_t workspace) const;
  // Other than success: the algorithm does not take these operands, and nothing was done.
  cublasStatus_t run(cublasLtHandle_t, const cublasLtMatmulAlgo_t&, const ProductOperands&,
                     void* workspace, int64_t workspace_bytes, void* stream) const;

 private:
  struct Destroy {
    void operator()(cublasLtMatmulDescOpaque_t* p) const { cublasLtMatmulDescDestroy(p); }
    void operator()(cublasLtMatrixLayoutOpaque_t* p) const { cublasLtMatrixLayoutDestroy(p); }
    void operator()(cublasLtMatmulPreferenceOpaque_t* p) const {
      cublasLtMatmulPreferenceDestroy(p);
    }
  };
  using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy>;
  using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy>;
  using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy>;

  static Layout layout(DType, int64_t rows, int64_t columns, int64_t column_stride, int64_t count,
                       int64_t stride);
  Preference preference(int64_t workspace) const;

  ProductShape shape_;
  Operation operation_;
  Layout a_, b_, c_;
};

}  // namespace rwkv::cuda
