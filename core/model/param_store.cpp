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

ParamStore::ParamStore(std::vector<ParamSpec> specs, Precision precision, bool training)
    : specs_(std::move(specs)), precision_(precision), training_(training) {
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
    grad = arena.take("gradients", acc, {total});
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
    params_.push_back({masters_.back(), copy ? copies_.back() : masters_.back(),
                       training_ ? part(grad, offset, spec.shape) : Tensor{}});
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
                                           bool training) {
  int64_t total = 0, copies = 0;
  for (const ParamSpec& spec : specs) {
    total += padded(spec.shape.elements());
    if (spec.product && precision.compute != precision.accumulate) {
      copies += spec.shape.elements() * bytes_of(precision.compute);
    }
  }
  total *= bytes_of(precision.accumulate);
  std::vector<Arena::Entry> entries = {{"weights", total}};
  if (training) {
    entries.push_back({"gradients", total});
    entries.push_back({"AdamW moments", 2 * total});
  }
  if (copies > 0) entries.push_back({"compute copies", copies});
  return entries;
}

}  // namespace rwkv
