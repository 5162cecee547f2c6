#include <relu_squared_check.h>

#include <cmath>
#include <vector>

#include <device_memory.h>

namespace rwkv::cuda {
namespace {

constexpr int64_t kRows = 200, kColumns = 328, kSum = 136;

// From -1 to 1, in steps of 1/16, which bf16 has.
std::vector<bf16> pattern(const Shape& shape, int64_t seed) {
  std::vector<bf16> values;
  for (int64_t i = 0; i < shape.elements(); ++i) {
    const int64_t mixed = (i + seed) * 2654435761 % 4294967296 >> 7;
    values.emplace_back(static_cast<float>(mixed % 33 - 16) / 16);
  }
  return values;
}

// A matrix on the device.
struct Matrix {
  Buffer room;
  Tensor view;

  explicit Matrix(const Shape& shape)
      : room(shape.elements() * bytes_of(DType::kBF16), device::device_memory()),
        view{room.data(), DType::kBF16, shape} {}
  void fill(const Stream& stream, std::vector<bf16> values) {
    copy(device::device_memory(), stream, view, view_of(values.data(), view.shape));
  }
  std::vector<bf16> values(const Stream& stream) const {
    std::vector<bf16> out(static_cast<size_t>(view.elements()));
    copy(device::device_memory(), stream, view_of(out.data(), view.shape), view);
    return out;
  }
};

// Both round to bf16, the one after the product too: three roundings of 2^-9, of which the square
// doubles one.
bool close(const std::vector<bf16>& got, const std::vector<bf16>& wanted) {
  float most = 0;
  for (const bf16 w : wanted) most = std::max(most, std::fabs(float(w)));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const float w = float(wanted[i]), g = float(got[i]);
    // Not "greater": a NaN is close to nothing.
    if (!(std::fabs(g - w) <= std::fabs(w) / 64 + most / 4096)) return false;
  }
  return most > 0;
}

}  // namespace

bool relu_squared_agrees(const Stream& stream, bool backward, Kernel<ReluSquaredProduct> way,
                         Kernel<ReluSquaredProduct> other) {
  Matrix a({kRows, kSum}), c({kRows, kColumns}), squared({kRows, kColumns});
  Matrix b(backward ? Shape{kSum, kColumns} : Shape{kColumns, kSum});
  a.fill(stream, pattern(a.view.shape, 1));
  b.fill(stream, pattern(b.view.shape, 2));
  std::vector<bf16> squares = pattern(squared.view.shape, 3);
  for (bf16& x : squares) x = bf16(float(x) * float(x));
  squared.fill(stream, squares);
  ReluSquaredProduct op{{.a = a.view, .b = b.view, .c = c.view, .trans_b = !backward}};
  if (backward) op.squared = squared.view;
  other(stream, op);
  const std::vector<bf16> wanted = c.values(stream);
  c.fill(stream, std::vector<bf16>(wanted.size(), bf16(7.0F)));
  way(stream, op);
  return close(c.values(stream), wanted);
}

}  // namespace rwkv::cuda
