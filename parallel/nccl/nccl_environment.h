// What NCCL is told in the environment.
#pragma once

#include "parallel/nccl_library.h"

namespace rwkv {

// For the job's rank `rank`, before NCCL's first call in this process. What the user has set stays.
void prepare_nccl_environment(const NcclSettings&, int rank);

}  // namespace rwkv
