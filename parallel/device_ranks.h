// Ranks for tensors where a backend keeps them: on a host the ranks themselves, for a device a
// communicator of its own beside them.
#pragma once

#include <memory>
#include <string>

#include "core/base/memory.h"
#include "parallel/communicator.h"

namespace rwkv {

// How tensors of devices travel.
struct DeviceLink {
  std::string kind = "auto";  // nccl; host: by way of the hosts' memories; auto: nccl where it is
  int device = -1;            // this rank's GPU; -1: none
  bool share_gpu = false;     // several ranks have one
  double timeout_seconds = 600;
};

class DeviceRanks {
 public:
  // `control` talks between hosts' memories and must outlive the object. Collective over it.
  // AgreedError where NCCL is asked for and is not on every rank.
  DeviceRanks(Communicator& control, const Memory& memory, const DeviceLink& = {});

  Communicator& get() const { return own_ == nullptr ? control_ : *own_; }

 private:
  Communicator& control_;
  std::unique_ptr<Communicator> own_;
};

}  // namespace rwkv
