// The parts that the field table is put together from.
#pragma once

#include <span>

#include "core/config/fields.h"

namespace rwkv::fields {

// The member at the end of a chain of members of Recipe.
template <auto... kMembers>
auto& at(Recipe& recipe) {
  return (recipe.*....*kMembers);
}

inline constexpr Range kFromZero{.min = 0};
inline constexpr Range kFromOne{.min = 1};
inline constexpr Range kPositive{.min = 0, .min_open = true};
inline constexpr Range kRank{.min = 1, .max = 65536};

std::span<const Field> model_and_data();  // run, model, data
std::span<const Field> training();        // train, loss, optimizer
std::span<const Field> machine();         // parallel, precision, checkpoint, eval, log

}  // namespace rwkv::fields
