#include "core/model/param_store.h"

#include <algorithm>
#include <cstring>

#include "core/base/hash.h"

namespace rwkv {
namespace {

// Parameters start at whole cache lines.
int64_t padded(int64_t elements) { return (elements + 15) / 16 * 16; }

Tensor part(const Tensor& all, int64_t offset, const Shape& shape) {
  return {all.data == nullptr ? nullptr : all.data + offset * bytes_of(all.dtype), all.dtype,
          shape};
}

}  // namespace

ParamStore::ParamStore(std::vector<ParamSpec> specs, Precision precision, bool training, bool exact)
    : specs_(std::move(specs)), precision_(precision), training_(training), exact_(exact) {
  Arena measure;
  bind(measure);
  plan_ = measure.entries();
  memory_ = Buffer(measure.peak());
  Arena arena(memory_.data(), measure.peak());
  bind(arena);
}

void ParamStore::bind(Arena& arena) {
  int64_t total = 0;
  for (const ParamSpec& spec : specs_) total += padded(spec.shape.elements());
  const DType acc = precision_.accumulate;
  const Tensor master = arena.take("weights", acc, {total});
  Tensor grad, m, v;
  if (training_) {
    grad = arena.take("gradients", exact_ ? DType::kI64 : acc, {total});
    if (exact_) {
      peaks_ = arena.take("gradients", DType::kI64, {static_cast<int64_t>(specs_.size())});
    }
    m = arena.take("AdamW moments", acc, {total});
    v = arena.take("AdamW moments", acc, {total});
  }
  all_gradients_ = grad;
  params_.clear();
  masters_.clear();
  moments1_.clear();
  moments2_.clear();
  copies_.clear();
  int64_t offset = 0;
  for (const ParamSpec& spec : specs_) {
    const bool copy = spec.product && precision_.compute != acc;
    masters_.push_back(part(master, offset, spec.shape));
    moments1_.push_back(part(m, offset, spec.shape));
    moments2_.push_back(part(v, offset, spec.shape));
    copies_.push_back(copy ? arena.take("compute copies", precision_.compute, spec.shape)
                           : Tensor{});
    params_.push_back({masters_.back(), copy ? copies_.back() : masters_.back(), {}});
    TokenSum& sum = params_.back().grad;
    if (training_) sum.sum = part(grad, offset, spec.shape);
    if (training_ && exact_) {
      sum.peak = part(peaks_, static_cast<int64_t>(params_.size()) - 1, {1});
    }
    offset += padded(spec.shape.elements());
  }
}

int ParamStore::find(std::string_view name) const {
  const auto it = std::find_if(specs_.begin(), specs_.end(),
                               [&](const ParamSpec& spec) { return spec.name == name; });
  return it == specs_.end() ? -1 : static_cast<int>(it - specs_.begin());
}

void ParamStore::zero_gradients() const {
  std::memset(all_gradients_.data, 0, static_cast<size_t>(all_gradients_.bytes()));
  if (exact_) std::memset(peaks_.data, 0, static_cast<size_t>(peaks_.bytes()));
}

double ParamStore::grad_unit(size_t i) const {
  const double scale = params_[i].grad.scale;
  return exact_ && scale > 0 ? 1 / scale : 1;
}

std::vector<double> ParamStore::scales() const {
  std::vector<double> scales;
  for (const Param& param : params_) scales.push_back(param.grad.scale);
  return scales;
}

void ParamStore::set_scales(std::span<const double> scales) {
  require(scales.size() == params_.size(), "one scale a parameter");
  for (size_t i = 0; i < params_.size(); ++i) params_[i].grad.scale = scales[i];
}

void ParamStore::refresh(const Backend& ops, const Stream& stream) const {
  for (size_t i = 0; i < specs_.size(); ++i) {
    if (!copies_[i].empty()) ops.cast(stream, {masters_[i], copies_[i]});
  }
}

uint64_t ParamStore::hash() const {
  uint64_t h = 0;
  for (const Tensor& master : masters_) {
    h = hash64(std::span(master.data, static_cast<size_t>(master.bytes())), h);
  }
  return h;
}

std::vector<Arena::Entry> plan_param_store(const std::vector<ParamSpec>& specs, Precision precision,
                                           bool training, bool exact) {
  int64_t total = 0, copies = 0;
  for (const ParamSpec& spec : specs) {
    total += padded(spec.shape.elements());
    if (spec.product && precision.compute != precision.accumulate) {
      copies += spec.shape.elements() * bytes_of(precision.compute);
    }
  }
  const int64_t sums = exact ? (total + static_cast<int64_t>(specs.size())) * 8
                             : total * bytes_of(precision.accumulate);
  total *= bytes_of(precision.accumulate);
  std::vector<Arena::Entry> entries = {{"weights", total}};
  if (training) {
    entries.push_back({"gradients", sums});
    entries.push_back({"AdamW moments", 2 * total});
  }
  if (copies > 0) entries.push_back({"compute copies", copies});
  return entries;
}

}  // namespace rwkv
