#include "core/io/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "core/base/hash.h"
#include "core/base/posix_file.h"
#include "core/io/hdf5_file.h"
#include "parallel/agree.h"

namespace rwkv {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kKinds[] = {"weights", "moment1", "moment2"};

Tensor tensor_of(const ParamStore& store, std::string_view kind, size_t i) {
  if (kind == "weights") return store.master(i);
  return kind == "moment1" ? store.moment1(i) : store.moment2(i);
}

std::string file_name(int rank) { return fmt::format("rank-{}.h5", rank); }

Tensor piece_of(const Tensor& whole, const Extent& extent) {
  return whole.reshaped({whole.elements()}).rows(extent.begin, extent.end);
}

void write_own_file(const std::string& folder, const ParamStore& store, int rank, int ranks) {
  Hdf5File file = Hdf5File::create(folder + "/" + file_name(rank));
  for (const Extent& extent : shard(store.specs(), ranks, rank)) {
    const auto i = static_cast<size_t>(extent.param);
    for (std::string_view kind : kKinds) {
      const Tensor whole = tensor_of(store, kind, i);
      if (whole.empty()) continue;
      file.write(fmt::format("{}/{}", kind, store.specs()[i].name), piece_of(whole, extent));
    }
  }
  file.close();
}

void write_index(const std::string& folder, const CheckpointInfo& info, const ParamStore& store,
                 int ranks) {
  Hdf5File file = Hdf5File::create(folder + "/index.h5");
  file.set_attribute("format_version", kCheckpointVersion);
  file.set_attribute("step", info.step);
  file.set_attribute("tokens", info.tokens);
  file.set_attribute("recipe", info.recipe);
  file.set_attribute("numerics", info.numerics);
  file.set_attribute("files", int64_t{ranks});
  file.set_attribute("weights_hash", to_hex(store.hash()));
  std::string names;
  std::vector<int64_t> shapes, extents;
  for (const ParamSpec& spec : store.specs()) {
    names += spec.name + "\n";
    shapes.push_back(spec.shape.rank);
    for (int64_t d : spec.shape.dim) shapes.push_back(d);
  }
  for (int rank = 0; rank < ranks; ++rank) {
    for (const Extent& e : shard(store.specs(), ranks, rank)) {
      extents.insert(extents.end(), {int64_t{rank}, int64_t{e.param}, e.begin, e.end});
    }
  }
  file.set_attribute("parameters", names);
  const auto count = static_cast<int64_t>(store.size());
  file.write("shapes", view_of(shapes.data(), {count, 7}));
  file.write("extents", view_of(extents.data(), {static_cast<int64_t>(extents.size()) / 4, 4}));
  file.close();
}

// The number in "step-N"; -1 when the name is another.
int64_t step_of(const std::string& name) {
  int64_t step = -1;
  if (!name.starts_with("step-")) return -1;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + 5, end, step);
  return error == std::errc{} && stop == end ? step : -1;
}

std::vector<int64_t> complete_steps(const std::string& folder) {
  std::vector<int64_t> steps;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const int64_t step = step_of(entry.path().filename());
    if (step >= 0 && is_checkpoint(entry.path())) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

// What a killed job left half written. The run folder is locked: nobody is at work there.
void remove_unfinished(const std::string& folder) {
  std::vector<fs::path> unfinished;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& path = entry.path();
    if (path.extension() == ".tmp" && step_of(path.stem()) >= 0) unfinished.push_back(path);
  }
  for (const fs::path& path : unfinished) fs::remove_all(path);
}

void remove_old(const std::string& folder, int64_t keep) {
  const std::vector<int64_t> steps = complete_steps(folder);
  if (keep <= 0) return;
  for (size_t i = 0; i + static_cast<size_t>(keep) < steps.size(); ++i) {
    fs::remove_all(fmt::format("{}/step-{}", folder, steps[i]));
  }
}

Hdf5File open_index(const std::string& step_folder) {
  Hdf5File index = Hdf5File::open(step_folder + "/index.h5");
  if (!index.has_attribute("format_version")) {
    throw InputError(step_folder + "/index.h5: not the index of a checkpoint");
  }
  const int64_t version = index.int_attribute("format_version");
  if (version > kCheckpointVersion) {
    throw InputError(fmt::format(
        "{}: checkpoint format {} is newer than this program's {}: use a newer rwkv-dist",
        step_folder, version, kCheckpointVersion));
  }
  return index;
}

using Shapes = std::vector<std::pair<std::string, Shape>>;

void check_shapes(const std::string& step_folder, const Shapes& shapes, const ParamStore& store) {
  for (const ParamSpec& spec : store.specs()) {
    const auto found = std::find_if(shapes.begin(), shapes.end(),
                                    [&](const auto& s) { return s.first == spec.name; });
    if (found == shapes.end()) throw InputError(step_folder + ": has no " + spec.name);
    if (!(found->second == spec.shape)) {
      throw InputError(fmt::format("{}: {} has shape {}, the recipe's model {}", step_folder,
                                   spec.name, to_string(found->second), to_string(spec.shape)));
    }
  }
}

// Elements [begin, end) of parameter `param` of the index stand in the file of rank `rank`.
struct StoredExtent {
  int64_t rank;
  size_t param;
  int64_t begin, end;
};

std::vector<StoredExtent> read_extents(const std::string& step_folder, const Shapes& shapes) {
  const Hdf5File index = open_index(step_folder);
  const int64_t count = index.shape_of("extents")[0];
  std::vector<int64_t> numbers(static_cast<size_t>(count) * 4);
  index.read("extents", view_of(numbers.data(), {count, 4}));
  std::vector<StoredExtent> extents;
  for (size_t e = 0; e < numbers.size(); e += 4) {
    const auto param = static_cast<size_t>(numbers[e + 1]);
    const StoredExtent extent{numbers[e], param, numbers[e + 2], numbers[e + 3]};
    if (param >= shapes.size() || extent.begin < 0 || extent.begin > extent.end ||
        extent.end > shapes[param].second.elements()) {
      throw InputError(step_folder + "/index.h5: an extent lies outside its parameter");
    }
    extents.push_back(extent);
  }
  return extents;
}

}  // namespace

bool is_checkpoint(const std::string& path) { return fs::is_regular_file(path + "/index.h5"); }

void save_checkpoint(const std::string& folder, const CheckpointInfo& info, const ParamStore& store,
                     int64_t keep, Communicator& comm) {
  const std::string final_path = fmt::format("{}/step-{}", folder, info.step);
  const std::string temporary = final_path + ".tmp";
  on_root(comm, [&] {
    make_directories(folder);
    remove_unfinished(folder);
    make_directories(temporary);
  });
  try {
    agree(comm, [&] { write_own_file(temporary, store, comm.rank(), comm.size()); });
    on_root(comm, [&] {
      write_index(temporary, info, store, comm.size());
      fsync_path(temporary);
      fs::remove_all(final_path);
      fs::rename(temporary, final_path);
      fsync_path(folder);
      replace_file(folder + "/latest", fmt::format("step-{}\n", info.step));
      remove_old(folder, keep);
    });
  } catch (const AgreedError&) {
    std::error_code ignored;  // the first error is the one to tell
    if (comm.rank() == 0) fs::remove_all(temporary, ignored);
    throw;
  }
}

CheckpointInfo read_checkpoint_info(const std::string& step_folder) {
  const Hdf5File index = open_index(step_folder);
  CheckpointInfo info;
  info.step = index.int_attribute("step");
  info.tokens = index.int_attribute("tokens");
  info.recipe = index.text_attribute("recipe");
  info.numerics = index.text_attribute("numerics");
  info.weights_hash = std::stoull(index.text_attribute("weights_hash"), nullptr, 16);
  return info;
}

std::vector<std::pair<std::string, Shape>> checkpoint_shapes(const std::string& step_folder) {
  const Hdf5File index = open_index(step_folder);
  const int64_t count = index.shape_of("shapes")[0];
  std::vector<int64_t> numbers(static_cast<size_t>(count) * 7);
  index.read("shapes", view_of(numbers.data(), {count, 7}));
  std::istringstream names(index.text_attribute("parameters"));
  std::vector<std::pair<std::string, Shape>> out;
  std::string name;
  for (size_t i = 0; std::getline(names, name); ++i) {
    if (i >= static_cast<size_t>(count)) {
      throw InputError(step_folder + "/index.h5: more parameters than shapes");
    }
    Shape shape;
    shape.rank = static_cast<int>(std::clamp<int64_t>(numbers[i * 7], 0, 6));
    for (size_t d = 0; d < 6; ++d) shape.dim[d] = numbers[i * 7 + 1 + d];
    out.emplace_back(name, shape);
  }
  return out;
}

void load_checkpoint(const std::string& step_folder, ParamStore& store, bool moments) {
  const auto shapes = checkpoint_shapes(step_folder);
  check_shapes(step_folder, shapes, store);
  int64_t open_rank = -1, loaded = 0;
  std::unique_ptr<Hdf5File> file;
  for (const StoredExtent& stored : read_extents(step_folder, shapes)) {
    const std::string& name = shapes[stored.param].first;
    const int own = store.find(name);
    if (own < 0) continue;  // a parameter that this model does not have
    if (stored.rank != open_rank) {
      file = std::make_unique<Hdf5File>(
          Hdf5File::open(step_folder + "/" + file_name(static_cast<int>(stored.rank))));
      open_rank = stored.rank;
    }
    const Extent extent{own, stored.begin, stored.end};
    loaded += extent.end - extent.begin;
    for (std::string_view kind : kKinds) {
      const Tensor whole = tensor_of(store, kind, static_cast<size_t>(own));
      if (whole.empty() || (kind != "weights" && !moments)) continue;
      file->read(fmt::format("{}/{}", kind, name), piece_of(whole, extent));
    }
  }
  if (loaded != count_elements(store.specs())) {
    throw InputError(step_folder + "/index.h5: its extents do not hold every parameter once");
  }
}

std::string latest_checkpoint(const std::string& run_folder) {
  const std::string folder = run_folder + "/checkpoints";
  const std::vector<int64_t> steps = complete_steps(folder);
  return steps.empty() ? "" : fmt::format("{}/step-{}", folder, steps.back());
}

}  // namespace rwkv
