#include <product_plan.h>

#include <string>

namespace rwkv::cuda {
namespace {

constexpr int kMostAlgorithms = 8;
// Of every operand: tensors and their rows begin at multiples of it (library_takes).
constexpr uint32_t kOperandAlignment = 16;

cudaDataType_t data_type(DType type) {
  return type == DType::kF32 ? CUDA_R_32F : type == DType::kBF16 ? CUDA_R_16BF : CUDA_R_16F;
}

}  // namespace

void check(cublasStatus_t code, const std::string& what) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  throw Error("cuBLASLt: " + what + ": " + cublasLtGetStatusString(code));
}

ProductPlan::Layout ProductPlan::layout(DType type, int64_t rows, int64_t columns,
                                        int64_t column_stride, int64_t count, int64_t stride) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, data_type(type), static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(columns), column_stride),
        "layout");
  Layout owner(made);
  if (count == 1) return owner;
  const auto matrices = static_cast<int32_t>(count);
  check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &matrices,
                                         sizeof matrices),
        "batch");
  check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                         sizeof stride),
        "batch");
  return owner;
}

ProductPlan::ProductPlan(const ProductShape& s, const ProductBatch& batch)
    : shape_(s),
      a_(s.trans_a ? layout(s.in, s.k, s.m, s.k, batch.count, batch.a)
                   : layout(s.in, s.m, s.k, s.m, batch.count, batch.a)),
      b_(s.trans_b ? layout(s.in, s.n, s.k, s.b_stride, batch.count, batch.b)
                   : layout(s.in, s.k, s.n, s.b_stride, batch.count, batch.b)),
      c_(layout(s.out, s.m, s.n, s.m, batch.count, batch.c)) {
  cublasLtMatmulDesc_t made = nullptr;
  check(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description");
  operation_.reset(made);
  const auto transpose = [&](cublasLtMatmulDescAttributes_t which, bool yes) {
    const cublasOperation_t value = yes ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(made, which, &value, sizeof value), "transposition");
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, s.trans_a);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, s.trans_b);
}

ProductPlan::Preference ProductPlan::preference(int64_t workspace) const {
  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made), "preference");
  Preference owner(made);
  const auto bytes = static_cast<uint64_t>(workspace);
  check(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                             sizeof bytes),
        "workspace");
  for (const cublasLtMatmulPreferenceAttributes_t which :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    check(cublasLtMatmulPreferenceSetAttribute(made, which, &kOperandAlignment,
                                               sizeof kOperandAlignment),
          "alignment");
  }
  if (!shape_.whole) return owner;
  const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
  check(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                             &none, sizeof none),
        "reduction");
  return owner;
}

std::vector<cublasLtMatmulAlgo_t> ProductPlan::algorithms(cublasLtHandle_t handle,
                                                          int64_t workspace) const {
  const Preference wanted = preference(workspace);
  std::vector<cublasLtMatmulHeuristicResult_t> found(kMostAlgorithms);
  int count = 0;
  const cublasStatus_t code =
      cublasLtMatmulAlgoGetHeuristic(handle, operation_.get(), a_.get(), b_.get(), c_.get(),
                                     c_.get(), wanted.get(), kMostAlgorithms, found.data(), &count);
  if (code != CUBLAS_STATUS_NOT_SUPPORTED) check(code, "heuristic");
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i) {
    const auto& result = found[static_cast<size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  }
  if (algorithms.empty())
    throw Error("cuBLASLt has no algorithm for a product of " + text_of(shape_));
  return algorithms;
}

std::string text_of(const ProductShape& shape) {
  return std::to_string(shape.n) + " x " + std::to_string(shape.k) + " x " +
         std::to_string(shape.m);
}

bool ProductPlan::takes(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                        int64_t workspace) const {
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t code = cublasLtMatmulAlgoCheck(handle, operation_.get(), a_.get(), b_.get(),
                                                      c_.get(), c_.get(), &algorithm, &result);
  return code == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<size_t>(workspace);
}

cublasStatus_t ProductPlan::run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                                const ProductOperands& operands, void* workspace,
                                int64_t workspace_bytes, void* stream) const {
  const float one = 1, beta = shape_.adds ? 1 : 0;
  const cublasStatus_t code =
      cublasLtMatmul(handle, operation_.get(), &one, operands.a, a_.get(), operands.b, b_.get(),
                     &beta, operands.add, c_.get(), operands.to, c_.get(), &algorithm, workspace,
                     static_cast<size_t>(workspace_bytes), static_cast<cudaStream_t>(stream));
  const bool refused = code == CUBLAS_STATUS_NOT_SUPPORTED || code == CUBLAS_STATUS_INVALID_VALUE ||
                       code == CUBLAS_STATUS_ARCH_MISMATCH;
  if (!refused) check(code, "product");
  return code;
}

}  // namespace rwkv::cuda
