#include "parallel/device_ranks.h"

namespace rwkv {

DeviceRanks::DeviceRanks(Communicator& control, const Memory& memory) : control_(control) {
  if (memory.host) return;
  if (control.size() > 1) throw Error("several ranks on GPUs are not built yet");
}

}  // namespace rwkv
