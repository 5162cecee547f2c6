// The structures below have their names of the 1.10 interface in later versions too.
#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>
#include <string>

#include "core/io/hdf5_file.h"
#include "core/io/hdf5_impl.h"

namespace rwkv {

using hdf5::checked;
using hdf5::Handle;
using hdf5::owned;

Handle Hdf5File::Impl::replace_attribute(const std::string& name, hid_t type) const {
  const hid_t id = live_to_write();
  const std::string at = where_attribute(name);
  if (checked(H5Aexists(id, name.c_str()), at, "look up") > 0) {
    checked(H5Adelete(id, name.c_str()), at, "replace");
  }
  const Handle space = owned(H5Screate(H5S_SCALAR), at, "create");
  return owned(H5Acreate2(id, name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT), at,
               "create");
}

Handle Hdf5File::Impl::open_attribute(std::string_view name) const {
  const std::string at = where_attribute(name), text(name);
  const hid_t id = live();
  if (checked<InputError>(H5Aexists(id, text.c_str()), at, "look up") == 0) {
    throw InputError(at + ": not there");
  }
  Handle attribute = owned<InputError>(H5Aopen(id, text.c_str(), H5P_DEFAULT), at, "open");
  const Handle space = owned(H5Aget_space(attribute.id()), at, "read the shape");
  if (H5Sget_simple_extent_npoints(space.id()) != 1) throw InputError(at + ": not one value");
  return attribute;
}

void Hdf5File::set_attribute(std::string_view name, std::string_view text) {
  const std::string at = impl_->where_attribute(name), value(text);
  require(value.find('\0') == std::string::npos, "a text attribute holds no zero byte");
  impl_->live_to_write();
  // Variable length: no limit of 64 KiB, and h5py gives a str.
  const Handle type = owned(H5Tcopy(H5T_C_S1), at, "make a text type");
  checked(H5Tset_size(type.id(), H5T_VARIABLE), at, "make a text type");
  checked(H5Tset_cset(type.id(), H5T_CSET_UTF8), at, "make a text type");
  const Handle attribute = impl_->replace_attribute(std::string(name), type.id());
  const char* pointer = value.c_str();
  checked(H5Awrite(attribute.id(), type.id(), &pointer), at, "write");
}

void Hdf5File::set_attribute(std::string_view name, int64_t value) {
  impl_->live_to_write();
  const Handle attribute = impl_->replace_attribute(std::string(name), H5T_STD_I64LE);
  checked(H5Awrite(attribute.id(), H5T_NATIVE_INT64, &value), impl_->where_attribute(name),
          "write");
}

void Hdf5File::set_attribute(std::string_view name, double value) {
  impl_->live_to_write();
  const Handle attribute = impl_->replace_attribute(std::string(name), H5T_IEEE_F64LE);
  checked(H5Awrite(attribute.id(), H5T_NATIVE_DOUBLE, &value), impl_->where_attribute(name),
          "write");
}

std::string Hdf5File::text_attribute(std::string_view name) const {
  const std::string at = impl_->where_attribute(name);
  const Handle attribute = impl_->open_attribute(name);
  const Handle type = owned(H5Aget_type(attribute.id()), at, "read the type");
  if (H5Tget_class(type.id()) != H5T_STRING) throw InputError(at + ": not a text");
  if (checked(H5Tis_variable_str(type.id()), at, "read the type") > 0) {
    char* text = nullptr;
    checked<InputError>(H5Aread(attribute.id(), type.id(), &text), at, "read");
    std::string out = text == nullptr ? "" : text;
    checked(H5free_memory(text), at, "free");
    return out;
  }
  std::string out(H5Tget_size(type.id()), '\0');
  checked<InputError>(H5Aread(attribute.id(), type.id(), out.data()), at, "read");
  out.resize(std::min(out.find('\0'), out.size()));
  return out;
}

int64_t Hdf5File::int_attribute(std::string_view name) const {
  const std::string at = impl_->where_attribute(name);
  const Handle attribute = impl_->open_attribute(name);
  const Handle type = owned(H5Aget_type(attribute.id()), at, "read the type");
  if (H5Tget_class(type.id()) != H5T_INTEGER) throw InputError(at + ": not an integer");
  int64_t value = 0;
  checked<InputError>(H5Aread(attribute.id(), H5T_NATIVE_INT64, &value), at, "read");
  return value;
}

double Hdf5File::double_attribute(std::string_view name) const {
  const std::string at = impl_->where_attribute(name);
  const Handle attribute = impl_->open_attribute(name);
  const Handle type = owned(H5Aget_type(attribute.id()), at, "read the type");
  const H5T_class_t kind = H5Tget_class(type.id());
  if (kind != H5T_FLOAT && kind != H5T_INTEGER) throw InputError(at + ": not a number");
  double value = 0;
  checked<InputError>(H5Aread(attribute.id(), H5T_NATIVE_DOUBLE, &value), at, "read");
  return value;
}

bool Hdf5File::has_attribute(std::string_view name) const {
  return checked<InputError>(H5Aexists(impl_->live(), std::string(name).c_str()),
                             impl_->where_attribute(name), "look up") > 0;
}

}  // namespace rwkv
