#include "parallel/nccl/nccl_environment.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace rwkv {
namespace {

void set(const char* name, const std::string& value) {
  if (setenv(name, value.c_str(), 0) != 0) throw CommError(std::string("setenv ") + name);
}

}  // namespace

void prepare_nccl_environment(const NcclSettings& settings, int rank) {
  set("NCCL_LAUNCH_ORDER_IMPLICIT", "1");
  // Sums have the same bits each time: rings in place of trees and of the switch's arithmetic.
  set("NCCL_ALGO", "Ring");
  set("NCCL_NVLS_ENABLE", "0");
  if (!settings.share_gpu) return;
  set("NCCL_HOSTID", "rwkv-r" + std::to_string(rank));  // each rank a host: no GPU is seen twice
  set("NCCL_PROTO", "Simple");
  set("NCCL_MAX_CTAS", "4");
  set("NCCL_MNNVL_ENABLE", "0");
  set("NCCL_RAS_ENABLE", "0");
  set("NCCL_SOCKET_IFNAME", "lo");
  if (rank == 0) {
    std::fputs("rwkv-dist: ranks share a GPU: for tests only, slow, not supported by NVIDIA\n",
               stderr);
  }
}

}  // namespace rwkv
