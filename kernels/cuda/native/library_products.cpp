#include <library_products.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>

#include <algorithm_text.h>
#include <device_check.h>
#include <hopper_products.h>
#include <product_plan.h>
#include <relu_squared_check.h>
#include <timing.h>

namespace rwkv::cuda {
namespace {

// A measured algorithm is taken for the library's own first choice when it is faster by this much:
// less is noise.
constexpr float kWorthIt = 0.97f;

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
    if (own == nullptr) own = std::make_unique<Products>(device);
    return *own;
  }
  explicit Products(int device) {
    check(cublasLtCreate(&handle_), "start");
    cudaDeviceProp properties{};
    device::check(cudaGetDeviceProperties(&properties, device), "device properties");
    id_ = "cuBLASLt " + std::to_string(cublasLtGetVersion()) + ", " + properties.name;
    if (const std::string fused = hopper_library(); !fused.empty()) id_ += ", " + fused;
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  void run(const Stream& stream, const ProductShape& shape, const ProductBatch& batch,
           const ProductOperands& operands) {
    require(stream.scratch_bytes >= kProductWorkspace,
            "a stream of a GPU has scratch for products");
    auto plan = plans_.find({shape, batch});
    if (plan == plans_.end()) {
      plan = plans_.emplace(std::pair(shape, batch), std::make_unique<ProductPlan>(shape, batch))
                 .first;
    }
    auto chosen = table_.algorithms.find(shape);
    if (chosen == table_.algorithms.end()) {
      // Leaves come in batches, of which no choice may depend on how many there are.
      const cublasLtMatmulAlgo_t algorithm =
          shape.whole ? first_of(ProductPlan(shape, {})) : choose(stream, *plan->second, operands);
      chosen = table_.algorithms.emplace(shape, algorithm).first;
    }
    check(call(stream, *plan->second, chosen->second, operands), "a product of " + text_of(shape));
  }

  void relu_squared(const Stream& stream, const ReluSquaredProduct& op,
                    Kernel<ReluSquaredProduct> in_turn) {
    if (!hopper_takes(op)) return in_turn(stream, op);
    const ReluSquaredShape shape{op.product.c.shape[0], op.product.c.shape[1],
                                 op.product.a.shape[1], !op.squared.empty()};
    auto chosen = table_.fused.find(shape);
    if (chosen == table_.fused.end()) {
      chosen = table_.fused.emplace(shape, measures_ && pays(stream, op, in_turn)).first;
    }
    chosen->second ? hopper_relu_squared(stream, op) : in_turn(stream, op);
  }

  void measure(bool on) { measures_ = on; }
  std::string write() const { return write_choices(id_, table_); }
  std::string read(const std::string& text) {
    ProductTable table;
    std::string why = read_choices(text, id_, table);
    if (!why.empty()) return why;
    for (const auto& [shape, algorithm] : table.algorithms) {
      if (!runs(shape, algorithm)) {
        return "its algorithm for a product of " + text_of(shape) + " does not run here";
      }
    }
    for (const auto& [shape, algorithm] : table.algorithms) {
      table_.algorithms.insert_or_assign(shape, algorithm);
    }
    for (const auto& [shape, fused] : table.fused) table_.fused.insert_or_assign(shape, fused);
    return "";
  }

 private:
  // Those of leaves are for batches, whose counts are not known before they are called.
  bool runs(const ProductShape& shape, const cublasLtMatmulAlgo_t& algorithm) const {
    if (shape.whole) return true;
    try {
      return ProductPlan(shape, {}).takes(handle_, algorithm, kProductWorkspace);
    } catch (const Error&) {  // no such shape
      return false;
    }
  }

  // Other than success: refused.
  cublasStatus_t call(const Stream& stream, const ProductPlan& plan,
                      const cublasLtMatmulAlgo_t& algorithm,
                      const ProductOperands& operands) const {
    return plan.run(handle_, algorithm, operands, stream.scratch, kProductWorkspace, stream.native);
  }

  // The first that the library says it can run.
  cublasLtMatmulAlgo_t first_of(const ProductPlan& plan) const {
    const auto found = plan.algorithms(handle_, kProductWorkspace);
    for (const cublasLtMatmulAlgo_t& algorithm : found) {
      if (plan.takes(handle_, algorithm, kProductWorkspace)) return algorithm;
    }
    return found.front();
  }

  // Of those that do not refuse the operands, if any is left.
  cublasLtMatmulAlgo_t choose(const Stream& stream, const ProductPlan& plan,
                              const ProductOperands& operands) const {
    if (!measures_) return first_of(plan);
    const auto found = plan.algorithms(handle_, kProductWorkspace);
    if (found.size() == 1) return found.front();
    size_t best = 0;
    std::optional<float> least;
    for (size_t i = 0; i < found.size(); ++i) {
      const std::optional<float> time = time_of(stream, plan, found[i], operands);
      if (!time || (least && *time >= *least)) continue;
      least = i == 0 ? *time * kWorthIt : *time;
      best = i;
    }
    return found[best];
  }

  // After one run that loads the kernel; nullopt: refused.
  std::optional<float> time_of(const Stream& stream, const ProductPlan& plan,
                               const cublasLtMatmulAlgo_t& algorithm,
                               const ProductOperands& operands) const {
    if (call(stream, plan, algorithm, operands) != CUBLAS_STATUS_SUCCESS) return std::nullopt;
    return device::least_time(stream.native, [&] { call(stream, plan, algorithm, operands); });
  }

  // Whether one kernel starts, is right here, and is faster than two.
  bool pays(const Stream& stream, const ReluSquaredProduct& op,
            Kernel<ReluSquaredProduct> in_turn) {
    const auto time_of_way = [&](Kernel<ReluSquaredProduct> way) {
      way(stream, op);
      return device::least_time(stream.native, [&] { way(stream, op); });
    };
    try {
      if (!fused_is_right(stream, !op.squared.empty(), in_turn)) return false;
      const float apart = time_of_way(in_turn);
      return time_of_way(hopper_relu_squared) < apart * kWorthIt;
    } catch (const Error&) {  // it does not start; what is worse shows in the next call
      return false;
    }
  }

  // Asked once for each way; the check's own products are no one else's.
  bool fused_is_right(const Stream& stream, bool backward, Kernel<ReluSquaredProduct> in_turn) {
    std::optional<bool>& known = fused_is_right_[backward ? 1 : 0];
    if (known) return *known;
    known = false;  // also where it throws
    const Unmeasured check(*this);
    known = relu_squared_agrees(stream, backward, hopper_relu_squared, in_turn);
    return *known;
  }
  // Products of its scope are not measured, and leave no choice.
  struct Unmeasured {
    Products& of;
    ProductTable table;
    bool measures;
    explicit Unmeasured(Products& products)
        : of(products), table(products.table_), measures(products.measures_) {
      of.measures_ = false;
    }
    Unmeasured(const Unmeasured&) = delete;
    Unmeasured& operator=(const Unmeasured&) = delete;
    ~Unmeasured() {
      of.table_ = std::move(table);
      of.measures_ = measures;
    }
  };

  cublasLtHandle_t handle_ = nullptr;  // to the end of the process
  std::string id_;
  bool measures_ = false;
  std::map<std::pair<ProductShape, ProductBatch>, std::unique_ptr<ProductPlan>> plans_;
  ProductTable table_;
  std::array<std::optional<bool>, 2> fused_is_right_;  // forward, backward
};

// The library wants rows of multiples of 16 bytes for its fast kernels, and takes 4 bytes at least.
bool aligned(int64_t columns, DType type) { return columns * bytes_of(type) % 16 == 0; }

const std::byte* behind(const ConstTensor& t, int64_t rows) {
  return t.data + rows * t.shape[1] * bytes_of(t.dtype);
}

// Rows [first, first + count * rows) of c, as `count` products.
void rows_of_matmul(const Stream& stream, const Matmul& op, int64_t first, int64_t rows,
                    int64_t count) {
  const int64_t n = op.c.shape[1];
  const int64_t k = op.trans_a ? op.a.shape[0] : op.a.shape[1];
  const ProductShape shape{n,
                           rows,
                           k,
                           op.trans_a ? rows : k,
                           op.trans_b,
                           op.trans_a,
                           op.beta != 0,
                           op.a.dtype,
                           op.c.dtype,
                           op.leaves.leaf > 0};
  const ProductBatch batch =
      count == 1 ? ProductBatch{} : ProductBatch{count, 0, rows * k, rows * n};
  const std::byte* a = first == 0 ? op.a.data : behind(op.a, first);
  const ConstTensor add = op.add.empty() ? ConstTensor(op.c) : op.add;
  Products::here().run(
      stream, shape, batch,
      {op.b.data, a, op.c.data + first * n * bytes_of(op.c.dtype), behind(add, first)});
}

}  // namespace

bool library_takes(const Matmul& op) {
  return (op.leaves.leaf == 0 || !op.trans_a) && aligned(op.a.shape[1], op.a.dtype) &&
         aligned(op.b.shape[1], op.b.dtype) && aligned(op.c.shape[1], op.c.dtype) &&
         op.c.elements() > 0;
}

bool library_takes(const WeightGradient& op) {
  return op.left.shape[0] > 0 && aligned(op.left.shape[1], op.left.dtype) &&
         aligned(op.right.shape[1], op.right.dtype);
}

void library_matmul(const Stream& stream, const Matmul& op) {
  const int64_t rows = op.c.shape[0], leaf = op.leaves.leaf;
  if (leaf == 0) return rows_of_matmul(stream, op, 0, rows, 1);
  for (int64_t first = 0; first < rows;) {
    const int64_t size = op.leaves.end(first, rows) - first, count = op.leaves.alike(first, rows);
    rows_of_matmul(stream, op, first, size, count);
    first += count * size;
  }
}

void library_weight_gradient(const Stream& stream, const WeightGradient& op) {
  const int64_t m = op.left.shape[1], n = op.right.shape[1];
  const ProductShape shape{n,    m,    op.left.shape[0], m,           false,
                           true, true, op.left.dtype,    DType::kF32, false};
  Products::here().run(stream, shape, {},
                       {op.right.data, op.left.data, op.to.sum.data, op.to.sum.data});
}

void library_leaf_gradients(const Stream& stream, const LeafProducts& op) {
  const int64_t n = op.right.shape[1], rows = op.left.shape[0] / op.count;
  const int64_t width = op.left.shape[1], m = op.end - op.begin;
  const ProductShape shape{n, m, rows, width, false, true, false, op.left.dtype, DType::kF32, true};
  const ProductBatch batch =
      op.count == 1 ? ProductBatch{} : ProductBatch{op.count, rows * n, rows * width, m * n};
  Products::here().run(
      stream, shape, batch,
      {op.right.data, op.left.data + op.begin * bytes_of(op.left.dtype), op.to, op.to});
}

void library_relu_squared(const Stream& stream, const ReluSquaredProduct& op,
                          Kernel<ReluSquaredProduct> in_turn) {
  Products::here().relu_squared(stream, op, in_turn);
}

const ProductChoices& library_choices() {
  static constexpr ProductChoices choices{
      [](bool on) { Products::here().measure(on); },
      [] { return Products::here().write(); },
      [](const std::string& text) { return Products::here().read(text); },
  };
  return choices;
}

}  // namespace rwkv::cuda
