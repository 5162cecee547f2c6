#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>

#include "core/base/hash.h"
#include "core/io/checkpoint.h"
#include "core/io/checkpoint_index.h"

namespace rwkv {
namespace {

std::span<const std::byte> raw_bytes(const ConstTensor& tensor) {
  return {tensor.data, static_cast<size_t>(tensor.bytes())};
}

void check_shapes(const std::string& step_folder, const CheckpointIndex& index,
                  const ParamStore& store) {
  for (const ParamSpec& spec : store.specs()) {
    const auto found = std::find_if(index.params.begin(), index.params.end(),
                                    [&](const auto& param) { return param.first == spec.name; });
    if (found == index.params.end()) throw InputError(step_folder + ": has no " + spec.name);
    if (!(found->second == spec.shape)) {
      throw InputError(fmt::format("{}: {} has shape {}, the recipe's model {}", step_folder,
                                   spec.name, to_string(found->second), to_string(spec.shape)));
    }
  }
}

// What the extent, which is read from the file that holds it, has of the store's `own` elements of
// a parameter, into `to`.
void read_extent(const Hdf5File& file, std::string_view kind, const std::string& name,
                 const StoredExtent& extent, const Extent& own, const Tensor& to,
                 const Memory& memory) {
  const int64_t begin = std::max(extent.begin, own.begin), end = std::min(extent.end, own.end);
  if (begin >= end) return;
  const int64_t elements = extent.end - extent.begin;
  const Tensor room = to.reshaped({to.elements()}).rows(begin - own.begin, end - own.begin);
  if (memory.host && elements == room.elements()) return file.read(dataset_name(kind, name), room);
  const Buffer read(elements * bytes_of(to.dtype));
  const Tensor stored{read.data(), to.dtype, {elements}};
  file.read(dataset_name(kind, name), stored);
  copy(memory, {}, room, stored.rows(begin - extent.begin, end - extent.begin));
}

void load_file(const Hdf5File& file, const CheckpointIndex& index, int64_t number,
               ParamStore& store, bool moments) {
  for (const StoredExtent& extent : index.extents) {
    if (extent.file != number) continue;
    const std::string& name = index.params[extent.param].first;
    const int own = store.find(name);
    if (own < 0) continue;  // a parameter that this model does not have
    const auto i = static_cast<size_t>(own);
    const Extent all{own, 0, store.master(i).elements()};
    read_extent(file, "weights", name, extent, all, store.master(i), store.memory());
    if (!moments) continue;
    read_extent(file, "moment1", name, extent, store.own(i), store.moment1(i), store.memory());
    read_extent(file, "moment2", name, extent, store.own(i), store.moment2(i), store.memory());
  }
}

// Those of parameters that the checkpoint does not have stay 0: their first step runs twice.
void load_scales(const CheckpointIndex& index, ParamStore& store) {
  std::vector<double> scales(store.size());
  for (size_t p = 0; p < index.scales.size(); ++p) {
    const int own = store.find(index.params[p].first);
    if (own >= 0) scales[static_cast<size_t>(own)] = index.scales[p];
  }
  store.set_scales(scales);
}

[[noreturn]] void wrong_weights(const std::string& step_folder) {
  throw InputError(step_folder + "/index.h5: weights_hash is not that of the weights");
}

// From the writer's memory to this one nothing was lost, whatever was in between. Only where the
// store holds the same parameters in the same type.
void check_loaded(const std::string& step_folder, const CheckpointIndex& index,
                  const ParamStore& store) {
  uint64_t hash = 0;
  Buffer room;
  for (const auto& param : index.params) {
    const int i = store.find(param.first);
    if (i < 0) return;
    const ConstTensor master =
        on_host(store.memory(), {}, store.master(static_cast<size_t>(i)), room);
    if (master.dtype != index.dtype) return;
    hash = hash64(raw_bytes(master), hash);
  }
  if (hash != index.info.weights_hash) wrong_weights(step_folder);
}

// A rank file holds the datasets that the index says, and no others.
void check_datasets(const Hdf5File& file, const std::string& path, const CheckpointIndex& index,
                    int64_t number) {
  std::set<std::string> wanted;
  for (const StoredExtent& extent : index.extents) {
    if (extent.file != number) continue;
    for (std::string_view kind : kCheckpointKinds) {
      if (kind != "weights" && !index.moments) continue;
      const std::string name = dataset_name(kind, index.params[extent.param].first);
      if (!file.has(name)) throw InputError(path + ": has no " + name);
      if (file.dtype_of(name) != index.dtype) {
        throw InputError(fmt::format("{}: {} is {}, the index says {}", path, name,
                                     name_of(file.dtype_of(name)), name_of(index.dtype)));
      }
      const Shape shape = file.shape_of(name);
      if (!(shape == Shape{extent.end - extent.begin})) {
        throw InputError(fmt::format("{}: {} has shape {}, the index says {} elements", path, name,
                                     to_string(shape), extent.end - extent.begin));
      }
      wanted.insert(name);
    }
  }
  for (const std::string& name : file.datasets()) {
    if (!wanted.contains(name)) throw InputError(path + ": unknown dataset " + name);
  }
}

// One parameter in memory at a time; the files have been checked.
void check_weights_hash(const std::string& step_folder, const CheckpointIndex& index) {
  std::vector<std::vector<StoredExtent>> pieces(index.params.size());
  for (const StoredExtent& extent : index.extents) pieces[extent.param].push_back(extent);
  std::optional<Hdf5File> file;
  int64_t open_file = -1;
  uint64_t hash = 0;
  for (size_t p = 0; p < pieces.size(); ++p) {
    const auto& [name, shape] = index.params[p];
    const Buffer memory(shape.elements() * bytes_of(index.dtype));
    const Tensor whole{memory.data(), index.dtype, shape};
    for (const StoredExtent& extent : pieces[p]) {
      if (extent.file != open_file) {
        file.emplace(Hdf5File::open(step_folder + "/" + rank_file(extent.file)));
        open_file = extent.file;
      }
      const Extent all{0, 0, whole.elements()};
      read_extent(*file, "weights", name, extent, all, whole, host_memory());
    }
    hash = hash64(raw_bytes(whole), hash);
  }
  if (hash != index.info.weights_hash) wrong_weights(step_folder);
}

void verify_into(CheckpointState& state, const std::string& step_folder, int part, int parts) {
  const CheckpointIndex index = read_index(step_folder);
  const auto files = static_cast<int64_t>(index.files.size());
  for (int64_t number = part; number < files; number += parts) {
    check_datasets(open_rank_file(step_folder, index, number),
                   step_folder + "/" + rank_file(number), index, number);
  }
  if (parts == 1) check_weights_hash(step_folder, index);
  state.info = index.info;
  state.files = files + 1;
  state.bytes = static_cast<int64_t>(std::filesystem::file_size(step_folder + "/index.h5"));
  for (const StoredFile& file : index.files) state.bytes += file.bytes;
}

}  // namespace

CheckpointInfo read_checkpoint_info(const std::string& step_folder) {
  return read_index(step_folder).info;
}

std::vector<std::pair<std::string, Shape>> checkpoint_shapes(const std::string& step_folder) {
  return read_index(step_folder).params;
}

void load_checkpoint(const std::string& step_folder, ParamStore& store, bool moments) {
  const CheckpointIndex index = read_index(step_folder);
  check_shapes(step_folder, index, store);
  const bool trains = !store.all_gradients().empty();
  if (moments && trains && !index.moments) {
    throw InputError(step_folder + ": holds weights alone, not the optimizer's moments");
  }
  for (int64_t number = 0; number < static_cast<int64_t>(index.files.size()); ++number) {
    load_file(open_rank_file(step_folder, index, number), index, number, store, moments && trains);
  }
  if (moments && store.exact()) load_scales(index, store);
  check_loaded(step_folder, index, store);
}

CheckpointState verify_checkpoint(const std::string& step_folder, int part, int parts) {
  CheckpointState state;
  try {
    verify_into(state, step_folder, part, parts);
  } catch (const NewerFormat&) {
    throw;
  } catch (const std::exception& error) {
    // The file's name is enough: who asks knows the folder.
    state.fault = error.what();
    if (state.fault.starts_with(step_folder + "/")) state.fault.erase(0, step_folder.size() + 1);
  }
  return state;
}

}  // namespace rwkv
