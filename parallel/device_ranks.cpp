#include "parallel/device_ranks.h"

namespace rwkv {

DeviceRanks::DeviceRanks(Communicator& control, const Memory& memory) : control_(control) {
  if (memory.host) return;
  own_ = control.size() == 1 ? make_self(memory) : make_staged(control, memory);
}

}  // namespace rwkv
