// The parameters of a run: masters, compute copies, gradients, moments, each in one piece of
// memory, so that a reduction or a hash is one call.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/model/block.h"

namespace rwkv {

// One of `count` shares of the optimizer's state, as shard() cuts them (core/plan/param_spec.h).
struct Part {
  int count = 1, index = 0;
};

class ParamStore {
 public:
  // training: with gradients and moments. exact: gradients are i64 in fixed point. part: the
  // moments are those of this share of all elements alone. Everything starts at zero, in `memory`.
  ParamStore(std::vector<ParamSpec>, Precision, bool training, bool exact = false, Part part = {},
             const Memory& memory = host_memory());

  const std::vector<ParamSpec>& specs() const { return specs_; }
  const Memory& memory() const { return *where_; }
  int find(std::string_view name) const;  // -1: not there
  size_t size() const { return specs_.size(); }

  Tensor master(size_t i) const { return masters_[i]; }
  // Elements of parameter i that this store updates, and whose moments it holds; none: begin = end.
  Extent own(size_t i) const { return own_[i]; }
  // The parameter's shape, or where moments are split (own elements).
  Tensor moment1(size_t i) const { return moments1_[i]; }
  Tensor moment2(size_t i) const { return moments2_[i]; }
  // The masters that the store of another part updates: contiguous, padding included.
  Tensor masters_of_part(int index) const;
  Tensor grad(size_t i) const { return params_[i].grad.sum; }  // acc, or i64 in grad_unit()
  double grad_unit(size_t i) const;                            // 1 for floats
  // The copy in the compute type that products read; empty where the master itself serves.
  Tensor compute_copy(size_t i) const { return copies_[i]; }

  // Parameters [first, first + count) as blocks see them.
  std::span<const Param> params(size_t first, size_t count) const {
    return {params_.data() + first, count};
  }
  // All gradients as one tensor (padding between parameters is zero); those of parameters
  // [first, end) with the padding behind each.
  Tensor all_gradients() const { return all_gradients_; }
  Tensor gradients(size_t first, size_t end) const;
  void zero_gradients(const Stream& = {}) const;  // and peaks

  // Fixed point. peaks: (parameters) i64, magnitude_bits() of the largest partial of each gradient.
  // The scales are chosen from them, and saved with a checkpoint, since they decide how partials
  // are rounded; 0: none yet.
  bool exact() const { return exact_; }
  Tensor peaks() const { return peaks_; }
  std::vector<double> scales() const;
  void set_scales(std::span<const double>);
  // Brings all compute copies up to date with the masters.
  void refresh(const Backend&, const Stream&) const;
  // XXH3 over all masters, in order.
  uint64_t hash() const;

  int64_t bytes() const { return memory_.bytes(); }
  std::vector<Arena::Entry> plan() const { return plan_; }

 private:
  void bind(Arena&);

  std::vector<ParamSpec> specs_;
  Precision precision_;
  bool training_, exact_;
  Part part_;
  const Memory* where_;
  std::vector<Extent> own_;       // a parameter
  std::vector<int64_t> offsets_;  // of each parameter in the memory of all
  std::vector<Param> params_;
  std::vector<Tensor> masters_, moments1_, moments2_, copies_;
  Tensor all_masters_, all_gradients_, peaks_;
  Buffer memory_;
  std::vector<Arena::Entry> plan_;
};

// Bytes that a store of these parameters takes, without making it.
std::vector<Arena::Entry> plan_param_store(const std::vector<ParamSpec>&, Precision, bool training,
                                           bool exact = false, Part part = {});

// Fills a master by its spec: Philox keyed by (seed, name), counter = element, so that the values
// depend on nothing else.
void initialize(const ParamSpec&, uint64_t seed, Tensor master);
// All of them, a thread a parameter.
void initialize(ParamStore&, uint64_t seed, int threads);

}  // namespace rwkv
