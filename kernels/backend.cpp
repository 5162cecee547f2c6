#include "kernels/backend.h"

namespace rwkv {

const Backend& find_backend(std::string_view name) {
  if (name == "reference") return reference_backend();
  if (name == "cpu") return cpu_backend();
  throw InputError("unknown backend '" + std::string(name) + "' (known: reference, cpu)");
}

}  // namespace rwkv
