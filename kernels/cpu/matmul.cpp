#include "kernels/cpu/matmul.h"

#include <omp.h>
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

namespace rwkv::cpu {
namespace {

constexpr int64_t kRows = 256;     // rows of c a call
constexpr int64_t kColumns = 512;  // columns of a weight's gradient a call, in fixed point
constexpr int64_t kDepth = 512;    // rows summed a call where tokens are summed over (trans_a)

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

// Blocks of at most kRows rows that keep to the leaves. Row 0 may lie inside a sequence, at the
// start of a leaf; blocks are numbered from that sequence's start.
class RowBlocks {
 public:
  RowBlocks(const Leaves& leaves, int64_t rows) : leaves_(leaves), rows_(rows) {
    if (leaves.leaf == 0) leaves_ = {rows, rows, 0};
    leaves_.leaf = std::min(leaves_.leaf, leaves_.tokens);
    a_leaf_ = (leaves_.leaf + kRows - 1) / kRows;
    const int64_t rest = leaves_.tokens % leaves_.leaf;
    a_sequence_ = leaves_.tokens / leaves_.leaf * a_leaf_ + (rest + kRows - 1) / kRows;
    begin_ = number(leaves_.first);
    end_ = number(leaves_.first + rows);
  }
  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }
  // First row of block i and of the one behind it.
  int64_t row(int64_t i) const {
    const int64_t in_sequence = i % a_sequence_, leaf = in_sequence / a_leaf_;
    return i / a_sequence_ * leaves_.tokens + leaf * leaves_.leaf + in_sequence % a_leaf_ * kRows -
           leaves_.first;
  }
  int64_t behind(int64_t i) const { return std::min(row(i + 1), rows_); }

 private:
  // The block that starts at this place, counted from the sequence's start, or the one behind the
  // last, which may be cut short.
  int64_t number(int64_t place) const {
    const int64_t in_sequence = place % leaves_.tokens, in_leaf = in_sequence % leaves_.leaf;
    return place / leaves_.tokens * a_sequence_ + in_sequence / leaves_.leaf * a_leaf_ +
           (in_leaf + kRows - 1) / kRows;
  }

  Leaves leaves_;
  int64_t rows_, a_leaf_ = 1, a_sequence_ = 1, begin_ = 0, end_ = 0;
};

// c rows [first, first + m).
void run_rows(const Matmul& op, int64_t first, int64_t m) {
  const int64_t all_rows = op.c.shape[0], n = op.c.shape[1];
  if (op.beta != 0 && !op.add.empty() && op.add.data != op.c.data) {
    const int64_t row = n * bytes_of(op.c.dtype);
    std::memcpy(op.c.data + first * row, op.add.data + first * row, static_cast<size_t>(m * row));
  }
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
  if (op.c.shape[0] == 0) return;
  const RowBlocks blocks(op.trans_a ? Leaves{} : op.leaves, op.c.shape[0]);
#pragma omp parallel for schedule(static) num_threads(stream.threads)
  for (int64_t i = blocks.begin(); i < blocks.end(); ++i) {
    run_rows(op, blocks.row(i), blocks.behind(i) - blocks.row(i));
  }
}

namespace {

// Elements [row, row + m) x [column, column + n) of a weight's gradient, leaf by leaf: a partial
// stays in the core's own cache until it is added.
void run_leaves(const WeightGradient& op, int64_t row, int64_t column, int64_t m, int64_t n,
                AddBlock add) {
  thread_local std::vector<float> partial(static_cast<size_t>(kRows * kColumns));
  const int64_t rows = op.left.shape[0], lda = op.left.shape[1], ldb = op.right.shape[1];
  const int64_t size = bytes_of(op.left.dtype);
  for (int64_t begin = 0; begin < rows;) {
    const int64_t end = op.leaves.end(begin, rows);
    for (int64_t from = begin; from < end; from += kDepth) {
      const Call call{m,
                      n,
                      std::min(kDepth, end - from),
                      lda,
                      ldb,
                      n,
                      true,
                      false,
                      from > begin,
                      op.left.dtype,
                      DType::kF32};
      run_call(call, op.left.data + (from * lda + row) * size,
               op.right.data + (from * ldb + column) * size,
               reinterpret_cast<std::byte*>(partial.data()));
    }
    add(op.to, row * ldb + column, ldb, partial.data(), m, n);
    begin = end;
  }
}

}  // namespace

void weight_gradient(const Stream& stream, const WeightGradient& op, AddBlock add) {
  if (!op.to.fixed()) {
    return matmul(stream,
                  {.a = op.left, .b = op.right, .c = op.to.sum, .trans_a = true, .beta = 1});
  }
  const int64_t m = op.left.shape[1], n = op.right.shape[1];
  const int64_t across = (n + kColumns - 1) / kColumns, down = (m + kRows - 1) / kRows;
#pragma omp parallel for schedule(static) num_threads(stream.threads)
  for (int64_t i = 0; i < down * across; ++i) {
    const int64_t row = i / across * kRows, column = i % across * kColumns;
    run_leaves(op, row, column, std::min(kRows, m - row), std::min(kColumns, n - column), add);
  }
}

std::string product_library() {
  const dnnl_version_t* version = dnnl_version();
  return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}

bool has_bf16_products() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

}  // namespace rwkv::cpu
