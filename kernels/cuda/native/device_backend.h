// The GPU under kernels/cuda/device.h. For .cu files alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include <device_check.h>
#include "core/base/stream.h"

#define RWKV_DEVICE __device__ __forceinline__

namespace rwkv::device {

struct LaunchShape {
  int64_t blocks = 0;
  int threads = 0;
  int64_t shared_bytes = 0;
};

RWKV_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }
RWKV_DEVICE int64_t block_count() { return static_cast<int64_t>(gridDim.x); }
RWKV_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
RWKV_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
RWKV_DEVICE uint16_t to_fp16(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
RWKV_DEVICE float from_fp16(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
RWKV_DEVICE void sync_block() { __syncthreads(); }
// The 128 threads of a team, of two in a block, alone.
RWKV_DEVICE void sync_team(int team) {
  asm volatile("bar.sync %0, 128;" ::"r"(team + 1) : "memory");
}
RWKV_DEVICE float warp_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
RWKV_DEVICE void raise_max(int64_t* to, int64_t value) {
  atomicMax(reinterpret_cast<long long*>(to), static_cast<long long>(value));
}
// Bytes of scratch for what leaves add to a weight's gradient. Bits depend on it.
inline constexpr int64_t kLeafRoom = int64_t{64} << 20;
// Of smaller ones a row is read twice: the second time it is still in the cache.
inline constexpr int64_t kLeastHeldVocab = 16384;
// Tokens of the recurrence that a block of its own is worth.
inline constexpr int64_t kLeastPiece = 256;
// Of the current device, asked once.
template <cudaDeviceAttr kWhat>
int64_t attribute() {
  static thread_local int values[64] = {};
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  int& value = values[device % 64];
  if (value == 0) check(cudaDeviceGetAttribute(&value, kWhat, device), "attribute");
  return value;
}
inline int64_t multiprocessors() { return attribute<cudaDevAttrMultiProcessorCount>(); }
// That a block may have.
inline int64_t block_shared_bytes() { return attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>(); }
inline int64_t room(const Stream& stream) { return stream.scratch_bytes; }
// Memory for a launch and those that follow it on the stream.
inline std::byte* scratch(const Stream& stream, int64_t bytes) {
  if (bytes > stream.scratch_bytes) {
    throw Error("CUDA: an op wants " + std::to_string(bytes) +
                " bytes of scratch, the stream has " + std::to_string(stream.scratch_bytes));
  }
  return stream.scratch;
}
RWKV_DEVICE std::byte* shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return reinterpret_cast<std::byte*>(memory);
}

// Whether a multiprocessor has 228 KB of shared memory, as from sm_90 on; less holds fewer blocks,
// which then may have more registers.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
inline constexpr bool kMuchSharedMemory = false;
#else
inline constexpr bool kMuchSharedMemory = true;
#endif
// Whether 80 registers a thread do for the recurrence forward, so that three of its blocks share a
// multiprocessor: what ptxas needs for sm_90; for sm_100 it spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
inline constexpr bool kThreeTeamBlocks = true;
#else
inline constexpr bool kThreeTeamBlocks = false;
#endif

// A kernel that says how many threads its blocks have and how many blocks a multiprocessor is to
// hold is given registers to match.
template <class Kernel>
concept Bounded = requires {
  Kernel::kBlockThreads;
  Kernel::kBlocksPerSm;
};
// One whose registers would not do for 1024 threads says how many there may be.
template <class Kernel>
concept Limited = !Bounded<Kernel> && requires {
  requires(Kernel::kMostThreads > 0);
};
template <class Kernel>
__global__ void run(const Kernel kernel) {
  kernel();
}
template <Limited Kernel>
__global__ void __launch_bounds__(Kernel::kMostThreads) run(const Kernel kernel) {
  kernel();
}
template <Bounded Kernel>
__global__ void __launch_bounds__(Kernel::kBlockThreads, Kernel::kBlocksPerSm)
    run(const Kernel kernel) {
  kernel();
}

// All that there is, whatever this launch takes: another may take more.
template <class Kernel>
void ask_for_shared_memory() {
  void (*const entry)(Kernel) = run<Kernel>;
  const auto set = [&](cudaFuncAttribute what, int value) {
    check(cudaFuncSetAttribute(entry, what, value), "shared memory");
  };
  set(cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(block_shared_bytes()));
  set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

template <class Kernel>
void launch(const Stream& stream, const LaunchShape& shape, const Kernel& kernel) {
  if (shape.blocks == 0) return;
  require(shape.blocks <= INT32_MAX, "a launch has fewer than 2^31 blocks");
  if constexpr (Bounded<Kernel>) ask_for_shared_memory<Kernel>();
  run<Kernel>
      <<<static_cast<unsigned>(shape.blocks), static_cast<unsigned>(shape.threads),
         static_cast<size_t>(shape.shared_bytes), static_cast<cudaStream_t>(stream.native)>>>(
          kernel);
  check(cudaGetLastError(), "launch");
}

}  // namespace rwkv::device

// Before a loop.
#define RWKV_UNROLL _Pragma("unroll")

namespace rwkv::device {

// The value, of which the compiler knows nothing more: what is computed from it is not kept in
// registers from one round of a loop to the next.
RWKV_DEVICE int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}
RWKV_DEVICE int64_t opaque(int64_t value) {
  asm volatile("" : "+l"(value));
  return value;
}

RWKV_DEVICE void sync_warp() { __syncwarp(); }
RWKV_DEVICE float warp_read(float value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
RWKV_DEVICE uint32_t warp_ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
RWKV_DEVICE uint32_t warp_xor_bits(uint32_t value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Of a few units in the last place; subnormal numbers count as zero, which saves the instructions
// that would care for them.
RWKV_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RWKV_DEVICE float fast_inverse(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// GPUs before sm_80 lack the instructions of the kernels in chunks, and bf16 with them: the backend
// says so, and those kernels are not called.
#if __CUDA_ARCH__ >= 800
#define RWKV_FROM_SM80(...) __VA_ARGS__
#else
#define RWKV_FROM_SM80(...) __trap()
#endif

#if __CUDA_ARCH__ < 800
RWKV_DEVICE uint32_t bf16_bits(float value) {
  const uint32_t u = __float_as_uint(value), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return (u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded;
}
#endif
// Two bf16, `low` in the lower half; to nearest, ties to even.
RWKV_DEVICE uint32_t pack_bf16(float low, float high) {
#if __CUDA_ARCH__ >= 800
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return bf16_bits(low) | bf16_bits(high) << 16;
#endif
}

// sum (16 x 8) += a (16 x 16) b (16 x 8) in bf16 with float sums; PTX's layout of mma.m16n8k16.
RWKV_DEVICE void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  RWKV_FROM_SM80(asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)));
}

RWKV_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// Four 8 x 8 matrices of bf16 from shared memory; thread 8 m + i names the 16 bytes of row i of
// matrix m, `row` bytes on. Thread l has of each the elements 2 (l % 4) and the next of row l / 4;
// transposed: of column l / 4.
RWKV_DEVICE void load_matrices(const std::byte* matrix, int row, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(shared_address(matrix) + static_cast<uint32_t>(row))
               : "memory");
}
RWKV_DEVICE void load_matrices_transposed(const std::byte* matrix, int row, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(shared_address(matrix) + static_cast<uint32_t>(row))
               : "memory");
}
// The transpose of an 8 x 8 matrix of which thread l has the elements 2 (l % 4) and the next of row
// l / 4.
RWKV_DEVICE uint32_t transpose_matrix(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// 16 bytes into shared memory, zeros unless `there`. They have come when the thread has waited for
// all groups but the `newer` last ones; other threads see them after a sync.
RWKV_DEVICE void copy_async(std::byte* to, const std::byte* from, bool there) {
  RWKV_FROM_SM80(
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                   "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                   : "memory"));
}
RWKV_DEVICE void end_copy_group() {
  RWKV_FROM_SM80(asm volatile("cp.async.commit_group;" ::: "memory"));
}
template <int newer>
RWKV_DEVICE void wait_copies() {
  RWKV_FROM_SM80(asm volatile("cp.async.wait_group %0;" ::"n"(newer) : "memory"));
}

}  // namespace rwkv::device
