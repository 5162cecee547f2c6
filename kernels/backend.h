// A backend is a table of ops. The table is the seam: reference, cpu, and cuda from a library that
// is opened at run time. Every op runs on the stream it is given; views live where the backend's
// device is.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/memory.h"
#include "core/base/stream.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/norm_shift.h"
#include "kernels/product_choices.h"
#include "kernels/recording.h"
#include "kernels/time_mix.h"
#include "kernels/token_sum.h"
#include "kernels/wkv7.h"

namespace rwkv {

template <class Op>
using Kernel = void (*)(const Stream&, const Op&);

struct Backend {
  std::string_view name;  // reference | cpu | cuda
  std::string_view isa;   // what it was compiled for: generic | avx2 | avx512
  std::string build;      // compiler and libraries that its bits depend on
  bool bf16 = false;  // computes in bf16 (else the caller falls back to fp16 or f32, and says so)
  bool fp16 = false;
  bool f64 = false;
  const Memory* memory = &host_memory();    // where its tensors live
  const ProductChoices* choices = nullptr;  // nullptr: products have one algorithm
  // Whether saved states of the recurrence are bf16 (of the same shape), for passes of such a
  // wkv7_before_overlap; nullptr: they never are.
  bool (*saves_bf16_states)(DType compute, int64_t head_size, int64_t tile,
                            int64_t before_overlap) = nullptr;
  const Recording* recording = nullptr;  // nullptr: nothing can be recorded
  bool norm_backward_reads_out = true;   // false: norm_shift_backward asks for no shift.u

  // Throws InputError naming the key where there are no kernels for models of such a width and head
  // size; nullptr: for all there are.
  void (*check_sizes)(int64_t width, int64_t head_size) = nullptr;

  Kernel<Matmul> matmul;
  Kernel<ReluSquaredProduct> relu_squared_product;
  Kernel<WeightGradient> weight_gradient;
  Kernel<ActivationForward> activation_forward;
  Kernel<ActivationBackward> activation_backward;
  Kernel<Cast> cast;
  Kernel<SumSquares> sum_squares;
  Kernel<EmbeddingForward> embedding_forward;
  Kernel<EmbeddingBackward> embedding_backward;
  Kernel<LayerNormForward> layer_norm_forward;
  Kernel<LayerNormBackward> layer_norm_backward;
  Kernel<TokenShiftForward> token_shift_forward;
  Kernel<NormShiftForward> norm_shift_forward;
  Kernel<NormShiftBackward> norm_shift_backward;
  Kernel<HaloForward> halo_forward;
  Kernel<HaloBackward> halo_backward;
  Kernel<TimeMixInForward> time_mix_in_forward;
  Kernel<TimeMixInBackward> time_mix_in_backward;
  Kernel<Wkv7Map> wkv7_map;
  Kernel<Wkv7Forward> wkv7_forward;
  Kernel<Wkv7MapBackward> wkv7_map_backward;
  Kernel<Wkv7Backward> wkv7_backward;
  Kernel<Wkv7Fold> wkv7_fold;
  Kernel<TimeMixOutForward> time_mix_out_forward;
  Kernel<TimeMixOutBackward> time_mix_out_backward;
  Kernel<Rope> rope;
  Kernel<AttentionHalo> attention_halo;
  Kernel<AttentionForward> attention_forward;
  Kernel<AttentionBackward> attention_backward;
  Kernel<Dropout> dropout;
  Kernel<CrossEntropy> cross_entropy;
  Kernel<AdamW> adamw;
};

const Backend& reference_backend();  // f64 and f32, readable loops: the oracle
const Backend& cpu_backend();        // f32 and bf16, best instruction set of this machine
const Backend& cpu_backend(std::string_view isa);  // a given one; Error when this CPU lacks it
std::vector<std::string_view> cpu_isas();          // those that run here, best first

}  // namespace rwkv
