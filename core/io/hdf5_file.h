// HDF5 through a small RAII layer, whose sources alone include hdf5.h. Not thread-safe by itself.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/tensor.h"

namespace rwkv {

// Contiguous datasets of the types of DType (bf16 as an HDF5 float type of 16 bits: 1 sign, 8
// exponent, 7 mantissa; h5py reads it as float32), string, integer and double attributes of the
// root. Every HDF5 return code is checked; errors are IoError (or InputError when the content is
// wrong) naming file and dataset.
class Hdf5File {
 public:
  // Creates `path` (must not exist: IoError) or opens it to read.
  static Hdf5File create(const std::string& path);
  static Hdf5File open(const std::string& path);
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;
  ~Hdf5File();

  // Intermediate groups are made. `name` is a path such as "params/emb.weight".
  void write(std::string_view name, ConstTensor);
  // A dataset of `shape` to be filled by rows of its first dimension.
  void create_dataset(std::string_view name, DType, const Shape&);
  void write_rows(std::string_view name, int64_t first_row, ConstTensor rows);
  // The same where the first two dimensions are cut: (rows, columns, ...).
  void write_block(std::string_view name, int64_t first_row, int64_t first_column,
                   ConstTensor block);

  bool has(std::string_view name) const;
  Shape shape_of(std::string_view name) const;
  DType dtype_of(std::string_view name) const;
  std::vector<std::string> datasets() const;  // all, recursively, sorted
  // Reads a whole dataset into `to` (same element count; the file's type is converted by us).
  void read(std::string_view name, Tensor to) const;

  void set_attribute(std::string_view name, std::string_view text);
  void set_attribute(std::string_view name, int64_t value);
  void set_attribute(std::string_view name, double value);
  std::string text_attribute(std::string_view name) const;
  int64_t int_attribute(std::string_view name) const;
  double double_attribute(std::string_view name) const;
  bool has_attribute(std::string_view name) const;

  // Flushes, closes and fsyncs; throws when that fails. The destructor closes without a word.
  void close();

 private:
  struct Impl;
  explicit Hdf5File(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rwkv
