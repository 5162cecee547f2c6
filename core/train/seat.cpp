#include "core/train/seat.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "kernels/cuda_library.h"
#include "parallel/agree.h"

namespace rwkv {
namespace {

std::string joined(const std::vector<std::string>& ids) {
  std::string text;
  for (const std::string& id : ids) text += id + "\n";
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace

std::vector<int> share_out_devices(const std::vector<std::vector<std::string>>& visible) {
  std::set<std::string> taken;
  std::vector<int> devices;
  for (const std::vector<std::string>& ids : visible) {
    int device = kNoDevice;
    for (size_t i = 0; i < ids.size() && device == kNoDevice; ++i) {
      if (!ids[i].empty() && taken.insert(ids[i]).second) device = static_cast<int>(i);
    }
    devices.push_back(device);
  }
  return devices;
}

bool wants_gpu(const Recipe& recipe) {
  const std::string& device = recipe.parallel.device;
  if (device == "cpu" || (device == "auto" && recipe.precision == "fp64")) return false;
  if (recipe.precision == "fp64") {
    throw InputError("parallel.device cuda: precision fp64 runs on the CPU alone (bf16, fp32)");
  }
  const CudaLibrary& cuda = cuda_library();
  if (cuda.devices > 0) return true;
  if (device == "auto") return false;
  throw InputError("parallel.device cuda: " + cuda.why + " (auto and cpu run here)");
}

int64_t on_seats(Communicator& world, const std::optional<std::vector<std::string>>& ids,
                 const SeatedWork& work) {
  std::vector<std::vector<std::string>> visible;
  for (const std::string& text : world.gather(ids ? joined(*ids) : "")) {
    visible.push_back(lines_of(text));
  }
  const int device = share_out_devices(visible)[static_cast<size_t>(world.rank())];
  const bool works = !ids || device != kNoDevice;
  on_root(world, [&] {
    if (works) return;
    throw InputError("rank 0 sees no GPU that can be used (parallel.device=cpu does without)");
  });
  return on_some(world, works, [&](Communicator& workers) {
    return work(workers, {host_place(workers), std::max(device, 0)});
  });
}

int64_t on_seats(Communicator& world, const Recipe& recipe, const SeatedWork& work) {
  bool gpu = false;
  agree(world, [&] { gpu = wants_gpu(recipe); });
  const bool shares = gpu && recipe.parallel.share_gpu;
  std::optional<std::vector<std::string>> ids;
  if (gpu && !shares) ids = cuda_library().ids;
  return on_seats(world, ids, [&](Communicator& workers, Seat seat) {
    if (shares) seat.device = seat.place.rank % cuda_library().devices;
    return work(workers, seat);
  });
}

}  // namespace rwkv
