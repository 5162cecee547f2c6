// What the files of Hdf5File share; internal to core/io. The library's own header stays out: its
// identifiers are int64_t.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/error.h"
#include "core/io/hdf5_file.h"

namespace rwkv::hdf5 {

// The message of the innermost function that failed on this thread, on one line; forgets it.
std::string take_error();

// Passes on a result of the library, negative in case of failure; throws E naming `where`.
template <class E = IoError, class T>
T checked(T result, const std::string& where, const char* doing) {
  if (result < 0) throw E(where + ": cannot " + doing + ": " + take_error());
  return result;
}

// Owns one identifier of any kind.
class Handle {
 public:
  Handle() = default;
  explicit Handle(int64_t id) : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Handle();
  int64_t id() const { return id_; }
  int64_t release() { return std::exchange(id_, -1); }

 private:
  int64_t id_ = -1;
};

template <class E = IoError>
Handle owned(int64_t id, const std::string& where, const char* doing) {
  return Handle(checked<E>(id, where, doing));
}

// Called on every entry: silence on stderr is a setting of each thread, and a file must not make
// the library load filters from shared objects.
void prepare_thread();

Handle type_of(DType, const std::string& where);
// InputError naming the type when it is none of ours.
DType dtype_from(int64_t type, const std::string& where);

struct Dataset {
  Handle id;
  DType dtype = DType::kF32;
  Shape shape;
};

}  // namespace rwkv::hdf5

namespace rwkv {

struct Hdf5File::Impl {
  std::string path;
  hdf5::Handle file;
  bool writable = false;

  int64_t live() const {
    require(file.id() >= 0, "use of a closed HDF5 file");
    hdf5::prepare_thread();
    return file.id();
  }
  int64_t live_to_write() const {
    require(writable, "write to an HDF5 file opened to read");
    return live();
  }
  std::string where(std::string_view name) const {
    return path + ": dataset '" + std::string(name) + "'";
  }
  std::string where_attribute(std::string_view name) const {
    return path + ": attribute '" + std::string(name) + "'";
  }
  // A dataset is there. Every step of the path must be a hard link: other links lead elsewhere.
  bool exists(const std::string& name) const;
  hdf5::Dataset open(std::string_view name) const;
  hdf5::Handle replace_attribute(const std::string& name, int64_t type) const;
  hdf5::Handle open_attribute(std::string_view name) const;
};

}  // namespace rwkv
