#include "core/io/checkpoint_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <sstream>
#include <tuple>

#include "core/base/hash.h"
#include "core/base/posix_file.h"
#include "core/io/checkpoint_folder.h"

namespace rwkv {
namespace {

constexpr int64_t kShapeColumns = 7, kFileColumns = 2, kExtentColumns = 4;

// One line as `xxhsum --tag` writes it.
std::string hash_line(const std::string& hex) { return "XXH3 (index.h5) = " + hex + "\n"; }

uint64_t from_hex(const std::string& text, const std::string& where) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, 16);
  if (text.size() != 16 || error != std::errc{} || stop != end) {
    throw InputError(where + ": not a hash of 16 hexadecimal digits");
  }
  return value;
}

void check_bytes(const std::string& path, const StoredFile& wanted) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error == std::errc::no_such_file_or_directory) throw InputError(path + ": missing");
  if (!error && static_cast<int64_t>(bytes) != wanted.bytes) {
    throw InputError(fmt::format("{}: has {} bytes, {} were written", path, bytes, wanted.bytes));
  }
  const StoredFile found = digest_file(path);
  if (found.hash != wanted.hash || found.bytes != wanted.bytes) {
    throw InputError(fmt::format("{}: content changed (hash {}, written was {})", path,
                                 to_hex(found.hash), to_hex(wanted.hash)));
  }
}

void check_index_hash(const std::string& step_folder) {
  const std::string index = step_folder + "/index.h5", beside = step_folder + "/index.xxh3";
  for (const std::string& path : {index, beside}) {
    if (!std::filesystem::exists(path)) throw InputError(path + ": missing");
  }
  const std::string hex = to_hex(digest_file(index).hash), said = read_file(beside);
  if (said == hash_line(hex)) return;
  // Only what has the form of a hash is a hash: the message must not say that two equal ones
  // differ.
  const size_t digits = hash_line("").size() - 1;
  const std::string hash = said.size() > digits ? said.substr(digits, hex.size()) : "";
  if (said != hash_line(hash) || hash.size() != hex.size() ||
      hash.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw InputError(beside + ": does not hold the hash of index.h5");
  }
  throw InputError(
      fmt::format("{}: content changed (hash {}, index.xxh3 says {})", index, hex, hash));
}

using Rows = std::vector<std::vector<int64_t>>;

Rows read_rows(const Hdf5File& file, std::string_view name, int64_t columns,
               const std::string& where) {
  const Shape shape = file.shape_of(name);
  if (shape.rank != 2 || shape[1] != columns || file.dtype_of(name) != DType::kI64) {
    throw InputError(
        fmt::format("{}: dataset '{}' is not (rows, {}) of i64", where, name, columns));
  }
  std::vector<int64_t> numbers(static_cast<size_t>(shape.elements()));
  file.read(name, view_of(numbers.data(), shape));
  Rows rows;
  for (auto row = numbers.begin(); row != numbers.end(); row += columns) {
    rows.emplace_back(row, row + columns);
  }
  return rows;
}

void write_rows(Hdf5File& file, std::string_view name, int64_t columns,
                const std::vector<int64_t>& numbers) {
  const int64_t rows = static_cast<int64_t>(numbers.size()) / columns;
  file.write(name, view_of(numbers.data(), {rows, columns}));
}

Shape shape_from(const std::vector<int64_t>& row, const std::string& where) {
  Shape shape;
  bool good = row[0] >= 0 && row[0] <= static_cast<int64_t>(shape.dim.size());
  int64_t elements = 1;
  for (size_t d = 0; d < shape.dim.size(); ++d) {
    shape.dim[d] = row[d + 1];
    good = good && row[d + 1] >= 0 && !__builtin_mul_overflow(elements, row[d + 1], &elements);
  }
  if (!good) throw InputError(where + ": a shape is out of range");
  shape.rank = static_cast<int>(row[0]);
  return shape;
}

void read_params(const Hdf5File& file, CheckpointIndex& index, const std::string& where) {
  const Rows shapes = read_rows(file, "shapes", kShapeColumns, where);
  std::istringstream names(file.text_attribute("parameters"));
  std::set<std::string> seen;
  for (std::string name; std::getline(names, name);) {
    if (index.params.size() == shapes.size()) {
      throw InputError(where + ": more parameters than shapes");
    }
    if (!seen.insert(name).second) throw InputError(where + ": parameter " + name + " twice");
    index.params.emplace_back(name, shape_from(shapes[index.params.size()], where));
  }
  if (index.params.size() != shapes.size()) {
    throw InputError(where + ": more shapes than parameters");
  }
}

// The pieces of every parameter, put side by side, must give it exactly.
void check_tiling(const CheckpointIndex& index, const std::string& where) {
  std::vector<StoredExtent> sorted = index.extents;
  std::sort(sorted.begin(), sorted.end(), [](const StoredExtent& a, const StoredExtent& b) {
    return std::tie(a.param, a.begin) < std::tie(b.param, b.begin);
  });
  std::vector<int64_t> filled(index.params.size());
  std::set<std::pair<int64_t, size_t>> places;
  for (const StoredExtent& extent : sorted) {
    const std::string& name = index.params[extent.param].first;
    if (extent.begin != filled[extent.param] || extent.end <= extent.begin) {
      throw InputError(fmt::format("{}: extents of {} have a gap or overlap at element {}", where,
                                   name, std::min(extent.begin, filled[extent.param])));
    }
    if (!places.insert({extent.file, extent.param}).second) {
      throw InputError(
          fmt::format("{}: {} has two extents of {}", where, rank_file(extent.file), name));
    }
    filled[extent.param] = extent.end;
  }
  for (size_t i = 0; i < filled.size(); ++i) {
    if (filled[i] != index.params[i].second.elements()) {
      throw InputError(fmt::format("{}: extents of {} end at element {} of {}", where,
                                   index.params[i].first, filled[i],
                                   index.params[i].second.elements()));
    }
  }
}

void read_extents(const Hdf5File& file, CheckpointIndex& index, const std::string& where) {
  for (const auto& row : read_rows(file, "files", kFileColumns, where)) {
    index.files.push_back({row[0], static_cast<uint64_t>(row[1])});
  }
  for (const auto& row : read_rows(file, "extents", kExtentColumns, where)) {
    const StoredExtent extent{row[0], static_cast<size_t>(row[1]), row[2], row[3]};
    if (extent.file < 0 || extent.file >= static_cast<int64_t>(index.files.size()) ||
        extent.param >= index.params.size()) {
      throw InputError(where + ": an extent names a file or parameter that is not there");
    }
    index.extents.push_back(extent);
  }
  check_tiling(index, where);
}

void read_scales(const Hdf5File& file, CheckpointIndex& index, const std::string& where) {
  if (!file.has("scales")) return;
  const auto count = static_cast<int64_t>(index.params.size());
  if (!(file.shape_of("scales") == Shape{count}) || file.dtype_of("scales") != DType::kF64) {
    throw InputError(fmt::format("{}: dataset 'scales' is not ({}) of f64", where, count));
  }
  index.scales.resize(index.params.size());
  file.read("scales", view_of(index.scales.data(), {count}));
}

std::string read_products(const Hdf5File& file, const std::string& where) {
  if (!file.has("products")) return "";
  const Shape shape = file.shape_of("products");
  if (shape.rank != 1 || file.dtype_of("products") != DType::kU8) {
    throw InputError(where + ": dataset 'products' is not (bytes) of u8");
  }
  std::vector<uint8_t> text(static_cast<size_t>(shape[0]));
  file.read("products", view_of(text.data(), shape));
  return {text.begin(), text.end()};
}

CheckpointInfo read_info(const Hdf5File& file, const std::string& where) {
  CheckpointInfo info;
  info.products = read_products(file, where);
  if (file.has_attribute("loss_exponent")) {
    info.loss_scale = {static_cast<int>(std::clamp<int64_t>(file.int_attribute("loss_exponent"),
                                                            LossScale::kLeast, LossScale::kMost)),
                       file.int_attribute("loss_good_steps")};
  }
  info.step = file.int_attribute("step");
  info.tokens = file.int_attribute("tokens");
  if (file.has_attribute("repeated_passes")) {
    info.repeated_passes = file.int_attribute("repeated_passes");
  }
  if (file.has_attribute("tokens_a_pass")) {
    info.tokens_a_pass = file.int_attribute("tokens_a_pass");
  }
  if (file.has_attribute("data_tokens")) info.data_tokens = file.int_attribute("data_tokens");
  info.recipe = file.text_attribute("recipe");
  info.numerics = file.text_attribute("numerics");
  info.run_id = file.text_attribute("run_id");
  info.weights_hash =
      from_hex(file.text_attribute("weights_hash"), where + ": attribute 'weights_hash'");
  return info;
}

DType dtype_from(const std::string& name, const std::string& where) {
  for (DType dtype : {DType::kF32, DType::kF64}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw InputError(where + ": weights of type '" + name + "'; allowed are f32, f64");
}

}  // namespace

std::string rank_file(int64_t rank) { return fmt::format("rank-{}.h5", rank); }

std::string dataset_name(std::string_view kind, std::string_view param) {
  return fmt::format("{}/{}", kind, param);
}

StoredFile digest_file(const std::string& path) {
  StoredFile digest;
  Hasher hasher;
  read_in_pieces(path, [&](std::span<const std::byte> bytes) {
    hasher.add(bytes);
    digest.bytes += static_cast<int64_t>(bytes.size());
  });
  digest.hash = hasher.result();
  return digest;
}

void write_index(const std::string& folder, const CheckpointIndex& index) {
  const std::string path = folder + "/index.h5";
  Hdf5File file = Hdf5File::create(path);
  file.set_attribute("format_version", kCheckpointVersion);
  file.set_attribute("step", index.info.step);
  file.set_attribute("tokens", index.info.tokens);
  file.set_attribute("repeated_passes", index.info.repeated_passes);
  file.set_attribute("recipe", index.info.recipe);
  file.set_attribute("numerics", index.info.numerics);
  file.set_attribute("run_id", index.info.run_id);
  file.set_attribute("weights_hash", to_hex(index.info.weights_hash));
  if (index.info.tokens_a_pass > 0) file.set_attribute("tokens_a_pass", index.info.tokens_a_pass);
  if (index.info.data_tokens > 0) file.set_attribute("data_tokens", index.info.data_tokens);
  if (const auto& scale = index.info.loss_scale) {
    file.set_attribute("loss_exponent", int64_t{scale->exponent});
    file.set_attribute("loss_good_steps", scale->good);
  }
  file.set_attribute("dtype", name_of(index.dtype));
  file.set_attribute("moments", int64_t{index.moments});
  std::string names;
  std::vector<int64_t> shapes, files, extents;
  for (const auto& [name, shape] : index.params) {
    names += name + "\n";
    shapes.push_back(shape.rank);
    shapes.insert(shapes.end(), shape.dim.begin(), shape.dim.end());
  }
  for (const StoredFile& f : index.files) {
    files.insert(files.end(), {f.bytes, static_cast<int64_t>(f.hash)});
  }
  for (const StoredExtent& e : index.extents) {
    extents.insert(extents.end(), {e.file, static_cast<int64_t>(e.param), e.begin, e.end});
  }
  file.set_attribute("parameters", names);
  write_rows(file, "shapes", kShapeColumns, shapes);
  write_rows(file, "files", kFileColumns, files);
  write_rows(file, "extents", kExtentColumns, extents);
  if (!index.scales.empty()) {
    file.write("scales", view_of(index.scales.data(), {static_cast<int64_t>(index.scales.size())}));
  }
  if (!index.info.products.empty()) {
    std::vector<uint8_t> text(index.info.products.begin(), index.info.products.end());
    file.write("products", view_of(text.data(), {static_cast<int64_t>(text.size())}));
  }
  file.close();
  replace_file(folder + "/index.xxh3", hash_line(to_hex(digest_file(path).hash)));
}

CheckpointIndex read_index(const std::string& step_folder) {
  const std::string where = step_folder + "/index.h5";
  check_index_hash(step_folder);
  const Hdf5File file = Hdf5File::open(where);
  const int64_t version = file.int_attribute("format_version");
  if (version > kCheckpointVersion) {
    throw NewerFormat(fmt::format(
        "{}: checkpoint format {} is newer than this program's {}: use a newer rwkv-dist",
        step_folder, version, kCheckpointVersion));
  }
  CheckpointIndex index;
  index.info = read_info(file, where);
  const int64_t named = step_named(step_folder);
  if (named >= 0 && named != index.info.step) {
    throw InputError(fmt::format("{}: is of step {}", where, index.info.step));
  }
  index.dtype = dtype_from(file.text_attribute("dtype"), where);
  index.moments = file.int_attribute("moments") != 0;
  read_params(file, index, where);
  read_extents(file, index, where);
  read_scales(file, index, where);
  return index;
}

Hdf5File open_rank_file(const std::string& step_folder, const CheckpointIndex& index,
                        int64_t file) {
  const std::string path = step_folder + "/" + rank_file(file);
  check_bytes(path, index.files[static_cast<size_t>(file)]);
  Hdf5File opened = Hdf5File::open(path);
  const int64_t step = opened.int_attribute("step");
  if (step != index.info.step) throw InputError(fmt::format("{}: is of step {}", path, step));
  if (opened.text_attribute("run_id") != index.info.run_id) {
    throw InputError(path + ": is of another run");
  }
  return opened;
}

}  // namespace rwkv
