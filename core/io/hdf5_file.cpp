#include "core/io/hdf5_file.h"

// The structures below have their names of the 1.10 interface in later versions too.
#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/base/posix_file.h"
#include "core/io/convert.h"
#include "core/io/hdf5_impl.h"

namespace rwkv {
namespace {

using hdf5::checked;
using hdf5::Dataset;
using hdf5::Handle;
using hdf5::owned;
using hdf5::prepare_thread;
using hdf5::type_of;

Handle space_of(const Shape& shape, const std::string& where) {
  std::array<hsize_t, 6> dims{};
  for (int i = 0; i < shape.rank; ++i) {
    dims[static_cast<size_t>(i)] = static_cast<hsize_t>(shape[i]);
  }
  return owned(H5Screate_simple(shape.rank, dims.data(), nullptr), where, "describe the shape");
}

// The dataspace of `opened` with `count` rows from `first` on selected; in the second dimension
// those of `columns` (count 0: all).
struct Columns {
  int64_t first = 0, count = 0;
};
Handle selected_rows(const Dataset& opened, int64_t first, int64_t count, const std::string& where,
                     const Columns& columns = {}) {
  Handle space = owned(H5Dget_space(opened.id.id()), where, "read the shape");
  if (opened.shape.rank == 0) return space;
  std::array<hsize_t, 6> start{}, size{};
  for (int i = 0; i < opened.shape.rank; ++i) {
    size[static_cast<size_t>(i)] = static_cast<hsize_t>(opened.shape[i]);
  }
  start[0] = static_cast<hsize_t>(first);
  size[0] = static_cast<hsize_t>(count);
  if (columns.count > 0) {
    start[1] = static_cast<hsize_t>(columns.first);
    size[1] = static_cast<hsize_t>(columns.count);
  }
  checked(
      H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, start.data(), nullptr, size.data(), nullptr),
      where, "select rows");
  return space;
}

void write_selected(const Dataset& opened, int64_t first, ConstTensor rows,
                    const std::string& where, const Columns& columns = {}) {
  if (rows.elements() == 0) return;
  const int64_t count = rows.shape.rank == 0 ? 1 : rows.shape[0];
  const Handle file_space = selected_rows(opened, first, count, where, columns);
  const Handle memory_space = space_of(rows.shape, where);
  checked(H5Dwrite(opened.id.id(), type_of(rows.dtype, where).id(), memory_space.id(),
                   file_space.id(), H5P_DEFAULT, rows.data),
          where, "write");
}

// Small data stays with the library until here: this is where a full disk shows, and after it the
// file can still be closed, which it cannot after a flush that failed.
void close_written(Dataset& opened, const std::string& where) {
  checked(H5Dclose(opened.id.release()), where, "write");
}

void read_selected(const Dataset& opened, int64_t first, Tensor rows, const std::string& where) {
  if (rows.elements() == 0) return;
  const int64_t count = rows.shape.rank == 0 ? 1 : rows.shape[0];
  const Handle file_space = selected_rows(opened, first, count, where);
  const Handle memory_space = space_of(rows.shape, where);
  checked<InputError>(H5Dread(opened.id.id(), type_of(rows.dtype, where).id(), memory_space.id(),
                              file_space.id(), H5P_DEFAULT, rows.data),
                      where, "read");
}

Handle file_access(const std::string& path) {
  Handle access = owned(H5Pcreate(H5P_FILE_ACCESS), path, "prepare the access");
  // Superblock 3, whose open-for-write mark makes a file that was never closed unreadable.
  checked(H5Pset_libver_bounds(access.id(), H5F_LIBVER_V110, H5F_LIBVER_V110), path,
          "choose the format");
  // Locks are not there on every parallel file system; a run folder has its own.
  checked(H5Pset_file_locking(access.id(), false, true), path, "turn file locks off");
  checked(H5Pset_fclose_degree(access.id(), H5F_CLOSE_SEMI), path, "prepare the access");
  return access;
}

}  // namespace

Hdf5File::Hdf5File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Hdf5File::Hdf5File(Hdf5File&&) noexcept = default;
Hdf5File& Hdf5File::operator=(Hdf5File&&) noexcept = default;
Hdf5File::~Hdf5File() = default;

Hdf5File Hdf5File::create(const std::string& path) {
  prepare_thread();
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->writable = true;
  const Handle access = file_access(path);
  impl->file = owned(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access.id()), path,
                     "create the file");
  // Puts the open-for-write mark on the disk before anything else.
  checked(H5Fflush(impl->file.id(), H5F_SCOPE_LOCAL), path, "flush");
  return Hdf5File(std::move(impl));
}

Hdf5File Hdf5File::open(const std::string& path) {
  prepare_thread();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) throw InputError(path + ": no such file");
  if (!std::filesystem::is_regular_file(path, error)) {
    throw InputError(path + ": not a regular file");
  }
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  const Handle access = file_access(path);
  impl->file = owned<InputError>(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), path,
                                 "open it as an HDF5 file");
  return Hdf5File(std::move(impl));
}

void Hdf5File::create_dataset(std::string_view name, DType dtype, const Shape& shape) {
  const hid_t file = impl_->live_to_write();
  const std::string at = impl_->where(name);
  const Handle links = owned(H5Pcreate(H5P_LINK_CREATE), at, "prepare the groups");
  checked(H5Pset_create_intermediate_group(links.id(), 1), at, "prepare the groups");
  const Handle plist = owned(H5Pcreate(H5P_DATASET_CREATE), at, "prepare the layout");
  checked(H5Pset_layout(plist.id(), H5D_CONTIGUOUS), at, "prepare the layout");
  checked(H5Pset_fill_time(plist.id(), H5D_FILL_TIME_NEVER), at, "prepare the layout");
  checked(H5Pset_alloc_time(plist.id(), H5D_ALLOC_TIME_EARLY), at, "prepare the layout");
  const Handle space = space_of(shape, at);
  owned(H5Dcreate2(file, std::string(name).c_str(), type_of(dtype, at).id(), space.id(), links.id(),
                   plist.id(), H5P_DEFAULT),
        at, "create");
}

void Hdf5File::write(std::string_view name, ConstTensor tensor) {
  create_dataset(name, tensor.dtype, tensor.shape);
  Dataset opened = impl_->open(name);
  write_selected(opened, 0, tensor, impl_->where(name));
  close_written(opened, impl_->where(name));
}

void Hdf5File::write_rows(std::string_view name, int64_t first_row, ConstTensor rows) {
  impl_->live_to_write();
  Dataset opened = impl_->open(name);
  const Shape& whole = opened.shape;
  require(opened.dtype == rows.dtype, "rows are written with the type of their dataset");
  require(whole.rank >= 1 && rows.shape.rank == whole.rank, "rows have the rank of their dataset");
  for (int i = 1; i < whole.rank; ++i) {
    require(rows.shape[i] == whole[i], "rows have the shape of their dataset");
  }
  require(first_row >= 0 && first_row <= whole[0] && rows.shape[0] <= whole[0] - first_row,
          "rows lie inside their dataset");
  write_selected(opened, first_row, rows, impl_->where(name));
  close_written(opened, impl_->where(name));
}

void Hdf5File::write_block(std::string_view name, int64_t first_row, int64_t first_column,
                           ConstTensor block) {
  impl_->live_to_write();
  Dataset opened = impl_->open(name);
  const Shape& whole = opened.shape;
  require(opened.dtype == block.dtype, "a block is written with the type of its dataset");
  require(whole.rank >= 2 && block.shape.rank == whole.rank, "a block has its dataset's rank");
  for (int i = 2; i < whole.rank; ++i) {
    require(block.shape[i] == whole[i], "a block has the shape of its dataset");
  }
  const auto inside = [&](int64_t first, int i) {
    return first >= 0 && first <= whole[i] && block.shape[i] <= whole[i] - first;
  };
  require(inside(first_row, 0) && inside(first_column, 1), "a block lies inside its dataset");
  write_selected(opened, first_row, block, impl_->where(name), {first_column, block.shape[1]});
  close_written(opened, impl_->where(name));
}

bool Hdf5File::has(std::string_view name) const { return impl_->exists(std::string(name)); }
Shape Hdf5File::shape_of(std::string_view name) const { return impl_->open(name).shape; }
DType Hdf5File::dtype_of(std::string_view name) const { return impl_->open(name).dtype; }

std::vector<std::string> Hdf5File::datasets() const {
  std::vector<std::string> names;
  // Visits hard links only, each object once; nothing may be thrown through the C library.
  auto add = [](hid_t, const char* name, const H5O_info_t* info, void* out) noexcept -> herr_t {
    if (info->type == H5O_TYPE_DATASET)
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  checked<InputError>(
      H5Ovisit2(impl_->live(), H5_INDEX_NAME, H5_ITER_INC, add, &names, H5O_INFO_BASIC),
      impl_->path, "list the datasets");
  std::sort(names.begin(), names.end());
  return names;
}

void Hdf5File::read(std::string_view name, Tensor to) const {
  const std::string at = impl_->where(name);
  const Dataset opened = impl_->open(name);
  if (opened.shape.elements() != to.elements()) {
    throw InputError(at + ": has shape " + to_string(opened.shape) + ", wanted is " +
                     to_string(to.shape));
  }
  if (opened.dtype == to.dtype) return read_selected(opened, 0, to.reshaped(opened.shape), at);
  if (to.elements() == 0) return;
  // By slices, so that a conversion does not double the memory of a big dataset.
  constexpr int64_t kSliceElements = int64_t{1} << 20;
  const Shape flat{opened.shape.rank == 0 ? 1 : opened.shape[0],
                   opened.shape.rank == 0 ? 1 : opened.shape.elements() / opened.shape[0]};
  const int64_t step = std::clamp<int64_t>(kSliceElements / flat[1], 1, flat[0]);
  std::vector<std::byte> buffer(static_cast<size_t>(step * flat[1] * bytes_of(opened.dtype)));
  for (int64_t row = 0; row < flat[0]; row += step) {
    const int64_t end = std::min(flat[0], row + step);
    Tensor slice{buffer.data(), opened.dtype, opened.shape};
    if (opened.shape.rank > 0) slice.shape.dim[0] = end - row;
    read_selected(opened, row, slice, at);
    convert(slice, to.reshaped(flat).rows(row, end), at);
  }
}

void Hdf5File::close() {
  const hid_t id = impl_->live();
  const std::string& path = impl_->path;
  if (impl_->writable) checked(H5Fflush(id, H5F_SCOPE_GLOBAL), path, "flush");
  checked(H5Fclose(id), path, "close");
  impl_->file.release();
  if (impl_->writable) fsync_path(path);
}

}  // namespace rwkv
