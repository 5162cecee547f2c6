// The CPU backend: products by oneDNN, everything else by kernels compiled once per instruction
// set.
#include <algorithm>

#include "kernels/backend.h"
#include "kernels/cpu/matmul.h"

namespace rwkv {
namespace cpu {
namespace generic {
void fill(Backend&);
}
#if defined(RWKV_VECTOR_ISAS)
namespace avx2 {
void fill(Backend&);
}
namespace avx512 {
void fill(Backend&);
}
#endif
}  // namespace cpu

namespace {

struct Isa {
  std::string_view name;
  bool (*runs)();
  void (*fill)(Backend&);
};

// Best first.
constexpr Isa kIsas[] = {
#if defined(RWKV_VECTOR_ISAS)
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("fma");
     },
     cpu::avx512::fill},
    {"avx2",
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi2");
     },
     cpu::avx2::fill},
#endif
    {"generic", [] { return true; }, cpu::generic::fill},
};

Backend make_table(const Isa& isa) {
  Backend table{};
  table.name = "cpu";
  table.isa = isa.name;
  table.build = "gcc " __VERSION__ " " + cpu::product_library();
  table.bf16 = cpu::has_bf16_products();
  table.matmul = cpu::matmul;
  isa.fill(table);
  return table;
}

}  // namespace

std::vector<std::string_view> cpu_isas() {
  std::vector<std::string_view> names;
  for (const Isa& isa : kIsas) {
    if (isa.runs()) names.push_back(isa.name);
  }
  return names;
}

const Backend& cpu_backend(std::string_view name) {
  static const std::vector<Backend> tables = [] {
    std::vector<Backend> built;
    for (const Isa& isa : kIsas) {
      if (isa.runs()) built.push_back(make_table(isa));
    }
    return built;
  }();
  const auto found =
      std::find_if(tables.begin(), tables.end(), [&](const Backend& t) { return t.isa == name; });
  if (found == tables.end()) throw Error("this CPU does not run " + std::string(name) + " code");
  return *found;
}

const Backend& cpu_backend() { return cpu_backend(cpu_isas().front()); }

}  // namespace rwkv
