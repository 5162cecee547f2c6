// Ranks for tensors where a backend keeps them: on a host the ranks themselves, for a device a
// communicator of its own beside them.
#pragma once

#include <memory>

#include "core/base/memory.h"
#include "parallel/communicator.h"

namespace rwkv {

class DeviceRanks {
 public:
  // `control` talks between hosts' memories and must outlive the object. Collective over it.
  DeviceRanks(Communicator& control, const Memory& memory);

  Communicator& get() { return own_ == nullptr ? control_ : *own_; }

 private:
  Communicator& control_;
  std::unique_ptr<Communicator> own_;
};

}  // namespace rwkv
