#include "parallel/device_ranks.h"

#include "parallel/agree.h"
#include "parallel/nccl_library.h"

namespace rwkv {
namespace {

// The same answer on all ranks.
bool takes_nccl(Communicator& control, const DeviceLink& link) {
  const bool here = link.kind != "host" && link.device >= 0 && nccl_library().make != nullptr;
  if (control.min(here ? 1 : 0) == 1) return true;
  agree(control, [&] {
    if (link.kind == "nccl" && !here) {
      throw InputError("parallel.link nccl: " + nccl_library().why + " (auto and host run here)");
    }
  });
  return false;
}

}  // namespace

DeviceRanks::DeviceRanks(Communicator& control, const Memory& memory, const DeviceLink& link)
    : control_(control) {
  if (memory.host) return;
  if (control.size() == 1) {
    own_ = make_self(memory);
  } else if (takes_nccl(control, link)) {
    own_ = make_nccl(control, {.device = link.device,
                               .timeout_seconds = link.timeout_seconds,
                               .share_gpu = link.share_gpu});
  } else {
    own_ = make_staged(control, memory);
  }
}

}  // namespace rwkv
