#include "core/model/param_store.h"

#include <algorithm>

#include "core/base/hash.h"

namespace rwkv {
namespace {

// Parameters start at whole cache lines.
int64_t padded(int64_t elements) { return (elements + 15) / 16 * 16; }

// Of every parameter, the elements that belong to the part.
std::vector<Extent> own_extents(const std::vector<ParamSpec>& specs, Part part) {
  std::vector<Extent> own;
  for (size_t i = 0; i < specs.size(); ++i) own.push_back({static_cast<int>(i), 0, 0});
  for (const Extent& extent : shard(specs, part.count, part.index)) {
    own[static_cast<size_t>(extent.param)] = extent;
  }
  return own;
}

int64_t padded_elements(const std::vector<Extent>& extents) {
  int64_t total = 0;
  for (const Extent& extent : extents) total += padded(extent.end - extent.begin);
  return total;
}

Tensor piece_of(const Tensor& all, int64_t offset, const Shape& shape) {
  return {all.data == nullptr ? nullptr : all.data + offset * bytes_of(all.dtype), all.dtype,
          shape};
}

}  // namespace

ParamStore::ParamStore(std::vector<ParamSpec> specs, Precision precision, bool training, bool exact,
                       Part part, const Memory& memory)
    : specs_(std::move(specs)),
      precision_(precision),
      training_(training),
      exact_(exact),
      part_(part),
      where_(&memory),
      own_(own_extents(specs_, part)) {
  Arena measure;
  bind(measure);
  plan_ = measure.entries();
  memory_ = Buffer(measure.peak(), memory);
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
    m = arena.take("AdamW moments", acc, {padded_elements(own_)});
    v = arena.take("AdamW moments", acc, {padded_elements(own_)});
  }
  all_masters_ = master;
  all_gradients_ = grad;
  params_.clear();
  masters_.clear();
  moments1_.clear();
  moments2_.clear();
  copies_.clear();
  offsets_.clear();
  int64_t offset = 0, moment_offset = 0;
  for (size_t i = 0; i < specs_.size(); ++i) {
    const ParamSpec& spec = specs_[i];
    const int64_t held = own_[i].end - own_[i].begin;
    const Shape of_moments = part_.count == 1 ? spec.shape : Shape{held};
    const bool copy = spec.product && precision_.compute != acc;
    offsets_.push_back(offset);
    masters_.push_back(piece_of(master, offset, spec.shape));
    moments1_.push_back(piece_of(m, moment_offset, of_moments));
    moments2_.push_back(piece_of(v, moment_offset, of_moments));
    moment_offset += padded(held);
    copies_.push_back(copy ? arena.take("compute copies", precision_.compute, spec.shape)
                           : Tensor{});
    params_.push_back({masters_.back(), copy ? copies_.back() : masters_.back(), {}});
    TokenSum& sum = params_.back().grad;
    if (training_) sum.sum = piece_of(grad, offset, spec.shape);
    if (training_ && exact_) {
      sum.peak = piece_of(peaks_, static_cast<int64_t>(i), {1});
    }
    offset += padded(spec.shape.elements());
  }
}

Tensor ParamStore::masters_of_part(int index) const {
  const std::vector<Extent> extents = shard(specs_, part_.count, index);
  if (extents.empty()) return piece_of(all_masters_, 0, {0});
  const Extent &first = extents.front(), &last = extents.back();
  const int64_t begin = offsets_[static_cast<size_t>(first.param)] + first.begin;
  const int64_t end = offsets_[static_cast<size_t>(last.param)] + last.end;
  return piece_of(all_masters_, begin, {end - begin});
}

int ParamStore::find(std::string_view name) const {
  const auto it = std::find_if(specs_.begin(), specs_.end(),
                               [&](const ParamSpec& spec) { return spec.name == name; });
  return it == specs_.end() ? -1 : static_cast<int>(it - specs_.begin());
}

void ParamStore::zero_gradients(const Stream& stream) const {
  zero(*where_, stream, all_gradients_);
  zero(*where_, stream, peaks_);
}

Tensor ParamStore::gradients(size_t first, size_t end) const {
  const auto begin_of = [&](size_t i) {
    return i < offsets_.size() ? offsets_[i] : all_gradients_.elements();
  };
  return piece_of(all_gradients_, begin_of(first), {begin_of(end) - begin_of(first)});
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
  Buffer room;
  for (const Tensor& own : masters_) {
    const ConstTensor master = on_host(*where_, {}, own, room);
    h = hash64(std::span(master.data, static_cast<size_t>(master.bytes())), h);
  }
  return h;
}

std::vector<Arena::Entry> plan_param_store(const std::vector<ParamSpec>& specs, Precision precision,
                                           bool training, bool exact, Part part) {
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
    entries.push_back({"AdamW moments", 2 * padded_elements(own_extents(specs, part)) *
                                            bytes_of(precision.accumulate)});
  }
  if (copies > 0) entries.push_back({"compute copies", copies});
  return entries;
}

}  // namespace rwkv
