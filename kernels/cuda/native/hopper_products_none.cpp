#include <hopper_products.h>

#include "core/base/error.h"

namespace rwkv::cuda {

std::string hopper_library() { return ""; }
bool hopper_takes(const ReluSquaredProduct&) { return false; }
void hopper_relu_squared(const Stream&, const ReluSquaredProduct&) {
  throw Error("internal: this build has no products for sm_90");
}

}  // namespace rwkv::cuda
