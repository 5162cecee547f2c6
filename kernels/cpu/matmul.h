// Products of the CPU backend, through oneDNN.
#pragma once

#include <string>

#include "core/base/stream.h"
#include "kernels/matmul.h"

namespace rwkv::cpu {

// Calls of one fixed shape each, single-threaded, shared out to the stream's threads; the sum over
// rows of a weight gradient runs in fixed blocks, in order. Bits do not depend on the threads.
void matmul(const Stream&, const Matmul&);

// Adds a block of a leaf's partials (rows x columns, contiguous) to the sum, whose rows are
// `stride` elements apart: the instruction set's own code.
using AddBlock = void (*)(const TokenSum&, int64_t at, int64_t stride, const float* partial,
                          int64_t rows, int64_t columns);
void weight_gradient(const Stream&, const WeightGradient&, AddBlock);

// "oneDNN 2.6.0".
std::string product_library();

// Whether this CPU multiplies bf16 in hardware (AVX512_BF16 or AMX).
bool has_bf16_products();

}  // namespace rwkv::cpu
