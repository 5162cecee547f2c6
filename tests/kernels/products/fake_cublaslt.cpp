#include "tests/kernels/products/fake_cublaslt.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "core/base/memory.h"

namespace rwkv::fake {
namespace {

struct Layout {
  cudaDataType type;
  uint64_t rows, columns;
  int64_t column_stride;
  int32_t count = 1;
  int64_t stride = 0;

  int64_t place(int64_t matrix, uint64_t row, uint64_t column) const {
    return matrix * stride + static_cast<int64_t>(column) * column_stride +
           static_cast<int64_t>(row);
  }
  double read(const void* p, int64_t i) const {
    if (type == CUDA_R_32F) return static_cast<double>(static_cast<const float*>(p)[i]);
    return type == CUDA_R_16BF ? static_cast<double>(float(static_cast<const bf16*>(p)[i]))
                               : static_cast<double>(float(static_cast<const fp16*>(p)[i]));
  }
  void write(void* p, int64_t i, double value) const {
    const auto rounded = static_cast<float>(value);
    if (type == CUDA_R_32F) {
      static_cast<float*>(p)[i] = rounded;
    } else if (type == CUDA_R_16BF) {
      static_cast<bf16*>(p)[i] = bf16(rounded);
    } else {
      static_cast<fp16*>(p)[i] = fp16(rounded);
    }
  }
};
struct Operation {
  bool trans_a = false, trans_b = false;
};
struct Preference {
  bool whole = false;
  uint32_t alignment = 256;  // as the library's
};
struct Event {
  float at = 0;
};

float now = 0;

const Layout& layout(cublasLtMatrixLayout_t p) { return *reinterpret_cast<const Layout*>(p); }

bool refuses(const cublasLtMatmulAlgo_t& algorithm) {
  return std::ranges::count(library().refused, algorithm.data[0]) > 0;
}

template <class T, class Opaque>
cublasStatus_t make(Opaque** p, const T& value) {
  *p = reinterpret_cast<Opaque*>(new T(value));
  return CUBLAS_STATUS_SUCCESS;
}
template <class T, class Opaque>
cublasStatus_t destroy(Opaque* p) {
  delete reinterpret_cast<T*>(p);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

void pass_time(float milliseconds) { now += milliseconds; }

Library& library() {
  static Library own;
  return own;
}

}  // namespace rwkv::fake

using namespace rwkv::fake;

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(&library());
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return 130000; }
const char* cublasLtGetStatusString(cublasStatus_t) { return "a fake's refusal"; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* p, cublasComputeType_t,
                                        cudaDataType_t) {
  return make(p, Operation{});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t p) { return destroy<Operation>(p); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t p,
                                              cublasLtMatmulDescAttributes_t which,
                                              const void* value, size_t) {
  auto& own = *reinterpret_cast<Operation*>(p);
  const bool yes = *static_cast<const cublasOperation_t*>(value) == CUBLAS_OP_T;
  (which == CUBLASLT_MATMUL_DESC_TRANSA ? own.trans_a : own.trans_b) = yes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* p, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t stride) {
  if (stride < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  return make(p, Layout{type, rows, columns, stride});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t p) { return destroy<Layout>(p); }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t p,
                                                cublasLtMatrixLayoutAttribute_t which,
                                                const void* value, size_t bytes) {
  auto& own = *reinterpret_cast<Layout*>(p);
  const bool count = which == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
  if (bytes != (count ? sizeof own.count : sizeof own.stride)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(count ? static_cast<void*>(&own.count) : &own.stride, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) {
  return make(p, Preference{});
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  return destroy<Preference>(p);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t which,
                                                    const void* value, size_t) {
  auto& own = *reinterpret_cast<Preference*>(p);
  if (which == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) {
    own.whole = *static_cast<const uint32_t*>(value) == 0;
  } else if (which == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) {
    own.alignment = *static_cast<const uint32_t*>(value);
  }
  return CUBLAS_STATUS_SUCCESS;
}

// The second word of an algorithm says that it was asked for without splits.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t found[], int* count) {
  *count = 0;
  library().alignment = reinterpret_cast<Preference*>(preference)->alignment;
  for (size_t i = 0; i < library().times.size() && *count < most; ++i, ++*count) {
    found[i] = {};
    found[i].algo.data[0] = i;
    found[i].algo.data[1] = reinterpret_cast<Preference*>(preference)->whole;
    found[i].state = CUBLAS_STATUS_SUCCESS;
  }
  return *count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  if (refuses(*algorithm)) return CUBLAS_STATUS_NOT_SUPPORTED;
  *result = {};
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void*,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* add,
                              cublasLtMatrixLayout_t, void* c, cublasLtMatrixLayout_t c_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void*, size_t, cudaStream_t) {
  if (refuses(*algorithm)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const auto& op = *reinterpret_cast<const Operation*>(operation);
  const Layout &la = layout(a_layout), &lb = layout(b_layout), &lc = layout(c_layout);
  const uint64_t k = op.trans_a ? la.rows : la.columns;
  if (k != (op.trans_b ? lb.columns : lb.rows) || la.count != lc.count || lb.count != lc.count ||
      lc.rows != (op.trans_a ? la.columns : la.rows) ||
      lc.columns != (op.trans_b ? lb.rows : lb.columns)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  for (int32_t matrix = 0; matrix < lc.count; ++matrix) {
    for (uint64_t i = 0; i < lc.rows; ++i) {
      for (uint64_t j = 0; j < lc.columns; ++j) {
        const int64_t at = lc.place(matrix, i, j);
        double sum = *static_cast<const float*>(beta) == 0 ? 0 : lc.read(add, at);
        for (uint64_t l = 0; l < k; ++l) {
          sum += la.read(a, op.trans_a ? la.place(matrix, l, i) : la.place(matrix, i, l)) *
                 lb.read(b, op.trans_b ? lb.place(matrix, j, l) : lb.place(matrix, l, j));
        }
        lc.write(c, at, sum);
      }
    }
  }
  const uint64_t which = algorithm->data[0];
  now += library().times.at(which);
  library().calls.push_back({which, lc.rows, lc.columns, k, lc.count, algorithm->data[1] != 0});
  return CUBLAS_STATUS_SUCCESS;
}

cudaError_t cudaGetDevice(int* device) {
  *device = library().device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strncpy(properties->name, library().gpu, sizeof properties->name - 1);
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return "a fake's error"; }
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  make(event, Event{});
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  destroy<Event>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  reinterpret_cast<Event*>(event)->at = now;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = reinterpret_cast<Event*>(to)->at - reinterpret_cast<Event*>(from)->at;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = rwkv::host_memory().allocate(static_cast<int64_t>(bytes));
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  rwkv::host_memory().release(static_cast<std::byte*>(p));
  return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(p, value, bytes);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  attributes->type = cudaMemoryTypeDevice;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = 0;
  return cudaSuccess;
}
