#include "kernels/cpu/matmul.h"

#include <omp.h>
#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

namespace rwkv::cpu {
namespace {

constexpr int64_t kRows = 256;   // rows of c a call
constexpr int64_t kDepth = 512;  // rows summed a call where tokens are summed over (trans_a)

using Type = dnnl::memory::data_type;

Type type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Type::f32;
    case DType::kBF16:
      return Type::bf16;
    default:
      throw Error("internal: the CPU backend multiplies f32 and bf16 only");
  }
}

// One call: an (m, k) x (k, n) product of parts of larger matrices.
struct Call {
  int64_t m, n, k;
  int64_t lda, ldb, ldc;  // elements from row to row as stored
  bool trans_a, trans_b, add;
  DType operand, result;

  auto operator<=>(const Call&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14
};

class Product {
 public:
  Product(const dnnl::engine& engine, const Call& call) {
    using Dims = dnnl::memory::dims;
    const auto strides = [](bool transposed, int64_t ld) {
      return transposed ? Dims{1, ld} : Dims{ld, 1};
    };
    const dnnl::memory::desc a({call.m, call.k}, type_of(call.operand),
                               strides(call.trans_a, call.lda));
    const dnnl::memory::desc b({call.k, call.n}, type_of(call.operand),
                               strides(call.trans_b, call.ldb));
    const dnnl::memory::desc c({call.m, call.n}, type_of(call.result), Dims{call.ldc, 1});
    dnnl::primitive_attr attributes;
    if (call.add) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    primitive_ = dnnl::matmul(dnnl::matmul::primitive_desc({a, b, c}, attributes, engine));
    a_ = dnnl::memory(a, engine, nullptr);
    b_ = dnnl::memory(b, engine, nullptr);
    c_ = dnnl::memory(c, engine, nullptr);
    arguments_ = {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}};
  }

  void run(const dnnl::stream& stream, const std::byte* a, const std::byte* b, std::byte* c) {
    a_.set_data_handle(const_cast<std::byte*>(a));
    b_.set_data_handle(const_cast<std::byte*>(b));
    c_.set_data_handle(c);
    primitive_.execute(stream, arguments_);
  }

 private:
  dnnl::matmul primitive_;
  dnnl::memory a_, b_, c_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

// oneDNN objects of one thread. Building a product costs up to half a millisecond, a look-up
// nothing beside the product itself; memory objects are not to be shared between threads.
class Library {
 public:
  void run(const Call& call, const std::byte* a, const std::byte* b, std::byte* c) {
    std::unique_ptr<Product>& product = products_[call];
    if (product == nullptr) product = std::make_unique<Product>(engine_, call);
    product->run(stream_, a, b, c);
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<Call, std::unique_ptr<Product>> products_;
};

void run_call(const Call& call, const std::byte* a, const std::byte* b, std::byte* c) {
  // Per task: a region of one thread does not count as parallel, and oneDNN would open its own.
  omp_set_num_threads(1);
  thread_local Library library;
  library.run(call, a, b, c);
}

// c rows [first, first + m).
void run_rows(const Matmul& op, int64_t first, int64_t m) {
  const int64_t all_rows = op.c.shape[0], n = op.c.shape[1];
  const int64_t k = op.trans_a ? op.a.shape[0] : op.a.shape[1];
  const int64_t size = bytes_of(op.a.dtype);
  const int64_t lda = op.trans_a ? all_rows : k, ldb = op.trans_b ? k : n;
  const int64_t depth = op.trans_a ? kDepth : k;
  for (int64_t from = 0; from < k; from += depth) {
    const Call call{m,          n,          std::min(depth, k - from), lda,        ldb,       n,
                    op.trans_a, op.trans_b, op.beta != 0 || from > 0,  op.a.dtype, op.c.dtype};
    run_call(call, op.a.data + (op.trans_a ? from * lda + first : first * lda) * size,
             op.b.data + (op.trans_b ? from : from * ldb) * size,
             op.c.data + first * n * bytes_of(op.c.dtype));
  }
}

}  // namespace

void matmul(const Stream& stream, const Matmul& op) {
  require(!op.trans_a || op.c.dtype == DType::kF32,
          "sums over tokens go to float32 results");  // partial sums are rounded between blocks
  const int64_t rows = op.c.shape[0], blocks = (rows + kRows - 1) / kRows;
#pragma omp parallel for schedule(static) num_threads(stream.threads)
  for (int64_t i = 0; i < blocks; ++i) {
    run_rows(op, i * kRows, std::min(kRows, rows - i * kRows));
  }
}

bool has_bf16_products() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

}  // namespace rwkv::cpu
