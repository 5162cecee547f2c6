// Whether what is planned fits, before the first of it is taken.
#pragma once

#include <vector>

#include "core/base/arena.h"

namespace rwkv {

// Throws InputError with the plan's table and the keys that change it where `memory` says that it
// has less free than all of the entries want.
void require_room(const Memory& memory, const std::vector<Arena::Entry>& entries);

}  // namespace rwkv
