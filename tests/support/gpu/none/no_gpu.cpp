// Builds without CUDA, and those with sanitizers, whose new and delete stay theirs.
#include "tests/support/gpu/gpu_backend.h"

namespace rwkv::test {

const Backend* gpu_backend() { return nullptr; }
std::string why_no_gpu() { return "not in this build"; }

}  // namespace rwkv::test
