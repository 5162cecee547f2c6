// cuBLASLt is column-major: a row-major c = a b is its c^T = b^T a^T, so the operands change
// places.
#include <library_products.h>

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include <device_check.h>

namespace rwkv::cuda {
namespace {

constexpr size_t kWorkspace = size_t{32} << 20;
constexpr int kCandidates = 8, kTimedRuns = 3;

// The one place where the library's return codes are looked at.
void check(cublasStatus_t code, const char* what) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  throw Error(std::string("cuBLASLt: ") + what + ": " + cublasLtGetStatusString(code));
}

cudaDataType_t data_type(DType type) { return type == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF; }

// What an algorithm depends on. m, n, k and the operands are the library's: column-major.
struct ProductKey {
  int64_t m, n, k;
  bool trans_a, trans_b, adds;
  DType in, out;
  int device;
  auto operator<=>(const ProductKey&) const = default;
};

struct DestroyOperation {
  void operator()(cublasLtMatmulDesc_t p) const { cublasLtMatmulDescDestroy(p); }
};
struct DestroyLayout {
  void operator()(cublasLtMatrixLayout_t p) const { cublasLtMatrixLayoutDestroy(p); }
};
struct DestroyPreference {
  void operator()(cublasLtMatmulPreference_t p) const { cublasLtMatmulPreferenceDestroy(p); }
};
using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t, DestroyOperation>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, DestroyLayout>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, DestroyPreference>;

Layout layout_of(DType type, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, data_type(type), static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(columns), rows),
        "layout");
  return Layout(layout);
}

// A product of one shape: its descriptions, and the algorithm that was found for it.
struct Plan {
  explicit Plan(const ProductKey& key)
      : a(key.trans_a ? layout_of(key.in, key.k, key.m) : layout_of(key.in, key.m, key.k)),
        b(key.trans_b ? layout_of(key.in, key.n, key.k) : layout_of(key.in, key.k, key.n)),
        c(layout_of(key.out, key.m, key.n)) {
    cublasLtMatmulDesc_t description = nullptr;
    check(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description");
    operation.reset(description);
    const cublasOperation_t op_a = key.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = key.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &op_a,
                                         sizeof op_a),
          "transposition");
    check(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &op_b,
                                         sizeof op_b),
          "transposition");
  }
  Operation operation;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
};

struct Operands {
  const void *a, *b;
  void* c;
  float beta;
};

// One a device; calls come from one thread a device at a time.
class Products {
 public:
  static Products& here() {
    static std::mutex guard;
    static std::map<int, std::unique_ptr<Products>> all;
    int device = 0;
    device::check(cudaGetDevice(&device), "cudaGetDevice");
    const std::lock_guard lock(guard);
    std::unique_ptr<Products>& own = all[device];
    if (own == nullptr) own = std::make_unique<Products>();
    own->device_ = device;
    return *own;
  }
  Products() { check(cublasLtCreate(&handle_), "start"); }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  int device() const { return device_; }

  void run(const Stream& stream, const ProductKey& key, const Operands& operands) {
    auto found = plans_.find(key);
    if (found == plans_.end()) {
      found = plans_.emplace(key, std::make_unique<Plan>(key)).first;
      choose(stream, key, operands, *found->second);
    }
    const Plan& plan = *found->second;
    call(stream, plan, plan.algorithm, operands, "product");
  }

 private:
  void call(const Stream& stream, const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
            const Operands& operands, const char* what) const {
    require(stream.scratch_bytes >= static_cast<int64_t>(kWorkspace),
            "a stream of a GPU has scratch for products");
    const float one = 1;
    check(cublasLtMatmul(handle_, plan.operation.get(), &one, operands.a, plan.a.get(), operands.b,
                         plan.b.get(), &operands.beta, operands.c, plan.c.get(), operands.c,
                         plan.c.get(), &algorithm, stream.scratch, kWorkspace,
                         static_cast<cudaStream_t>(stream.native)),
          what);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(const Plan& plan) const {
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "preference");
    const Preference owner(preference);
    const size_t room = kWorkspace;
    check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &room, sizeof room),
          "workspace");
    std::vector<cublasLtMatmulHeuristicResult_t> found(kCandidates);
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation.get(), plan.a.get(), plan.b.get(),
                                         plan.c.get(), plan.c.get(), preference, kCandidates,
                                         found.data(), &count),
          "heuristic");
    found.resize(static_cast<size_t>(count));
    return found;
  }

  // The first that the library offers: its choice depends on the shape alone, so a run repeats it.
  void choose(const Stream&, const ProductKey& key, const Operands&, Plan& plan) {
    const auto found = candidates(plan);
    if (found.empty()) {
      throw Error("cuBLASLt has no algorithm for a product of " + std::to_string(key.n) + " x " +
                  std::to_string(key.k) + " x " + std::to_string(key.m));
    }
    plan.algorithm = found.front().algo;
  }

  cublasLtHandle_t handle_ = nullptr;  // to the end of the process
  int device_ = 0;
  std::map<ProductKey, std::unique_ptr<Plan>> plans_;
};

// The library wants rows of multiples of 16 bytes for its fast kernels, and takes 4 bytes at least.
bool aligned(int64_t columns, DType type) { return columns * bytes_of(type) % 16 == 0; }

}  // namespace

bool library_takes(const Matmul& op) {
  return op.leaves.leaf == 0 && aligned(op.a.shape[1], op.a.dtype) &&
         aligned(op.b.shape[1], op.b.dtype) && aligned(op.c.shape[1], op.c.dtype) &&
         op.c.elements() > 0;
}

bool library_takes(const WeightGradient& op) {
  return op.leaves.leaf == 0 && !op.to.fixed() && op.left.shape[0] > 0 &&
         aligned(op.left.shape[1], op.left.dtype) && aligned(op.right.shape[1], op.right.dtype);
}

void library_matmul(const Stream& stream, const Matmul& op) {
  Products& products = Products::here();
  const int64_t k = op.trans_a ? op.a.shape[0] : op.a.shape[1];
  const ProductKey key{op.c.shape[1], op.c.shape[0], k,          op.trans_b,       op.trans_a,
                       op.beta != 0,  op.a.dtype,    op.c.dtype, products.device()};
  products.run(stream, key, {op.b.data, op.a.data, op.c.data, op.beta});
}

void library_weight_gradient(const Stream& stream, const WeightGradient& op) {
  Products& products = Products::here();
  const int64_t m = op.left.shape[1], n = op.right.shape[1];
  const ProductKey key{
      n, m, op.left.shape[0], false, true, true, op.left.dtype, DType::kF32, products.device()};
  products.run(stream, key, {op.right.data, op.left.data, op.to.sum.data, 1.0f});
}

}  // namespace rwkv::cuda
