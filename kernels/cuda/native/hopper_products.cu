// CUTLASS's persistent kernel of two consumer warp groups (its 3.x collectives), with our
// epilogues: out[i][j] = f(sum over k of a[i][k] b[k][j], source[i][j]).
#include <hopper_products.h>

#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/version.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include <limits>
#include <type_traits>

#include <device_check.h>

namespace rwkv::cuda {
namespace {

using Half = cutlass::bfloat16_t;
using RowMajor = cutlass::layout::RowMajor;
using ColumnMajor = cutlass::layout::ColumnMajor;
using cute::_1;

// Epilogues work on arrays of a thread's float sums.
template <class T>
struct SquaredRelu;
template <class T, int N>
struct SquaredRelu<cutlass::Array<T, N>> {
  CUTLASS_DEVICE cutlass::Array<T, N> operator()(const cutlass::Array<T, N>& x) const {
    cutlass::Array<T, N> y;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < N; ++i) y[i] = x[i] > T(0) ? x[i] * x[i] : T(0);
    return y;
  }
};
template <class T>
struct TimesTwiceTheRoot;
template <class T, int N>
struct TimesTwiceTheRoot<cutlass::Array<T, N>> {
  using Elements = cutlass::Array<T, N>;
  CUTLASS_DEVICE Elements operator()(const Elements& dy, const Elements& squared) const {
    Elements dx;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < N; ++i) dx[i] = dy[i] * 2 * sqrtf(squared[i]);
    return dx;
  }
};

namespace fusion = cutlass::epilogue::fusion;
constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;

struct Forward {
  using Source = void;
  using LayoutB = ColumnMajor;  // (N, K), transposed
  using Epilogue =
      fusion::Sm90EVT<fusion::Sm90Compute<SquaredRelu, Half, float, kRound>, fusion::Sm90AccFetch>;
};
struct Backward {
  using Source = Half;
  using LayoutB = RowMajor;  // (K, N)
  using Epilogue = fusion::Sm90EVT<fusion::Sm90Compute<TimesTwiceTheRoot, Half, float, kRound>,
                                   fusion::Sm90AccFetch, fusion::Sm90SrcFetch<Half>>;
};

template <class Way>
struct Product {
  using Tile = cute::Shape<cute::_128, cute::_256, cute::_64>;
  using Cluster = cute::Shape<cute::_2, _1, _1>;
  static constexpr int kAlignment = 8;  // elements
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, typename Way::Source, RowMajor,
      kAlignment, Half, RowMajor, kAlignment, cutlass::epilogue::TmaWarpSpecializedCooperative,
      typename Way::Epilogue>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Half, RowMajor, kAlignment, Half,
      typename Way::LayoutB, kAlignment, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;
  using Kernel =
      cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Device = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
};

const Half* halves(const ConstTensor& t) { return reinterpret_cast<const Half*>(t.data); }

void check(cutlass::Status status, const char* what) {
  if (status == cutlass::Status::kSuccess) return;
  throw Error(std::string("CUTLASS: ") + what + ": " + cutlass::cutlassGetStatusString(status));
}

template <class Way>
void run(const Stream& stream, const ReluSquaredProduct& op) {
  using Kernel = typename Product<Way>::Kernel;
  using Device = typename Product<Way>::Device;
  const Matmul& product = op.product;
  const int64_t m = product.c.shape[0], n = product.c.shape[1], k = product.a.shape[1];
  const typename Kernel::StrideA a_stride{k, _1{}, 0};
  const typename Kernel::StrideD c_stride{n, _1{}, 0};
  typename Kernel::StrideB b_stride{};
  if constexpr (std::is_same_v<typename Way::LayoutB, ColumnMajor>) {
    b_stride = {k, _1{}, 0};
  } else {
    b_stride = {_1{}, n, 0};
  }
  typename Device::Arguments arguments{
      cutlass::gemm::GemmUniversalMode::kGemm,
      {static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), 1},
      {halves(product.a), a_stride, halves(product.b), b_stride},
      {{}, nullptr, {}, reinterpret_cast<Half*>(product.c.data), c_stride}};
  if constexpr (!std::is_void_v<typename Way::Source>) {
    arguments.epilogue.ptr_C = halves(op.squared);
    arguments.epilogue.dC = c_stride;
  }
  // Blocks that run side by side share columns of b and rows of a in the L2 cache.
  arguments.scheduler.max_swizzle_size = 8;
  check(Device::can_implement(arguments), "a product with relu squared");
  require(Device::get_workspace_size(arguments) <= static_cast<size_t>(stream.scratch_bytes),
          "a stream of a GPU has scratch for products");
  Device device;
  check(device.run(arguments, stream.scratch, static_cast<cudaStream_t>(stream.native)),
        "a product with relu squared");
}

bool on_sm_90() {
  int device = 0, major = 0, minor = 0;
  device::check(cudaGetDevice(&device), "cudaGetDevice");
  device::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "sm");
  device::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "sm");
  return major == 9 && minor == 0;
}

}  // namespace

std::string hopper_library() {
  return "CUTLASS " + std::to_string(CUTLASS_MAJOR) + "." + std::to_string(CUTLASS_MINOR) + "." +
         std::to_string(CUTLASS_PATCH);
}

bool hopper_takes(const ReluSquaredProduct& op) {
  const Matmul& p = op.product;
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  const auto aligned = [](const ConstTensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  };
  const auto fits = [](int64_t length) { return length > 0 && length % 8 == 0 && length <= kMost; };
  return p.a.dtype == DType::kBF16 && p.c.dtype == DType::kBF16 && p.leaves.leaf == 0 &&
         !p.trans_a && p.beta == 0 && p.trans_b == op.squared.empty() && p.c.shape[0] > 0 &&
         p.c.shape[0] <= kMost && fits(p.c.shape[1]) && fits(p.a.shape[1]) && aligned(p.a) &&
         aligned(p.b) && aligned(p.c) && aligned(op.squared) && on_sm_90();
}

void hopper_relu_squared(const Stream& stream, const ReluSquaredProduct& op) {
  op.squared.empty() ? run<Forward>(stream, op) : run<Backward>(stream, op);
}

}  // namespace rwkv::cuda
