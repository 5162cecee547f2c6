#include "core/io/hdf5_impl.h"

// The structures below have their names of the 1.10 interface in later versions too.
#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

namespace rwkv::hdf5 {

static_assert(std::is_same_v<hid_t, int64_t>);

namespace {

// What the library says about a failed call of the system is long; the reason stands in quotes.
std::string shortened(const std::string& text) {
  constexpr std::string_view kReason = "error message = '";
  const size_t begin = text.find(kReason), details = text.find(": ");
  if (begin == std::string::npos || details > begin) return text;
  const size_t reason = begin + kReason.size();
  return text.substr(0, details + 2) + text.substr(reason, text.find('\'', reason) - reason);
}

}  // namespace

std::string take_error() {
  std::string text;
  auto take_first = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    auto& to = *static_cast<std::string*>(out);
    if (to.empty() && error->desc != nullptr) to = error->desc;
    return 0;
  };
  if (H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &text) < 0 || text.empty()) {
    text = "unknown HDF5 error";
  }
  H5Eclear2(H5E_DEFAULT);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return shortened(text);
}

Handle::~Handle() {
  if (id_ >= 0) H5Idec_ref(id_);
}

void prepare_thread() {
  // All files are closed by their owners. The library's own clean-up when the process ends would
  // walk over a file whose last write failed, and crash.
  [[maybe_unused]] static const herr_t never_at_exit = H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  checked(H5PLset_loading_state(0), "HDF5", "turn plugins off");
}

namespace {

Handle bf16_type(const std::string& where) {
  Handle type = owned(H5Tcopy(H5T_IEEE_F32LE), where, "make the type bf16");
  checked(H5Tset_fields(type.id(), 15, 7, 8, 0, 7), where, "make the type bf16");
  checked(H5Tset_size(type.id(), 2), where, "make the type bf16");
  checked(H5Tset_ebias(type.id(), 127), where, "make the type bf16");
  return type;
}

}  // namespace

Handle type_of(DType dtype, const std::string& where) {
  auto copy = [&](hid_t id) { return owned(H5Tcopy(id), where, "copy a type"); };
  switch (dtype) {
    case DType::kF64:
      return copy(H5T_IEEE_F64LE);
    case DType::kF32:
      return copy(H5T_IEEE_F32LE);
    case DType::kBF16:
      return bf16_type(where);
    case DType::kI64:
      return copy(H5T_STD_I64LE);
    case DType::kI32:
      return copy(H5T_STD_I32LE);
    case DType::kU16:
      return copy(H5T_STD_U16LE);
    case DType::kU8:
      return copy(H5T_STD_U8LE);
    case DType::kF16:
    case DType::kC128:
      break;
  }
  throw Error(where + ": type " + std::string(name_of(dtype)) + " is not stored in HDF5 files");
}

namespace {

std::string describe(hid_t type) {
  const std::string bits = std::to_string(8 * H5Tget_size(type));
  switch (H5Tget_class(type)) {
    case H5T_FLOAT: {
      size_t sign = 0, exponent_at = 0, exponent = 0, mantissa_at = 0, mantissa = 0;
      H5Tget_fields(type, &sign, &exponent_at, &exponent, &mantissa_at, &mantissa);
      if (H5Tget_size(type) == 2 && exponent == 5 && mantissa == 10) return "f16";
      return "a float of " + bits + " bits";
    }
    case H5T_INTEGER:
      return std::string(H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "i") + bits;
    case H5T_STRING:
      return "a string";
    case H5T_ENUM:
      return "an enumeration (or bool)";
    case H5T_COMPOUND:
      return "a compound";
    default:
      return "something else";
  }
}

}  // namespace

DType dtype_from(int64_t type, const std::string& where) {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kI64, DType::kI32, DType::kU16,
                      DType::kU8}) {
    if (checked(H5Tequal(type, type_of(dtype, where).id()), where, "compare types") > 0) {
      return dtype;
    }
  }
  const bool big_endian = H5Tget_order(type) == H5T_ORDER_BE;
  throw InputError(where + ": holds " + describe(type) + (big_endian ? ", big-endian" : "") +
                   "; allowed are f64, f32, bf16, i64, i32, u16, u8, little-endian");
}

namespace {

Shape shape_from(hid_t space, const std::string& where) {
  const H5S_class_t kind = H5Sget_simple_extent_type(space);
  if (kind != H5S_SIMPLE && kind != H5S_SCALAR) throw InputError(where + ": holds no values");
  const int rank = checked(H5Sget_simple_extent_ndims(space), where, "read the shape");
  Shape shape;
  if (rank > static_cast<int>(shape.dim.size())) {
    throw InputError(where + ": has " + std::to_string(rank) + " dimensions; at most 6 are read");
  }
  std::array<hsize_t, 6> dims{};
  checked(H5Sget_simple_extent_dims(space, dims.data(), nullptr), where, "read the shape");
  int64_t elements = 1;
  for (int i = 0; i < rank; ++i) {
    const auto d = dims[static_cast<size_t>(i)];
    if (!std::in_range<int64_t>(d) ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(d), &elements)) {
      throw InputError(where + ": the shape is too large");
    }
    shape.dim[static_cast<size_t>(i)] = static_cast<int64_t>(d);
  }
  shape.rank = rank;
  if (elements > std::numeric_limits<int64_t>::max() / 16) {
    throw InputError(where + ": the shape is too large");
  }
  return shape;
}

// Values must lie in this very file: a virtual dataset or external storage reads other files, and
// silently gives fill values when those are lost.
void refuse_storage_elsewhere(hid_t dataset, const std::string& where) {
  const Handle plist = owned(H5Dget_create_plist(dataset), where, "read the layout");
  if (H5Pget_layout(plist.id()) == H5D_VIRTUAL) {
    throw InputError(where + ": is a virtual dataset; only data of the file itself is read");
  }
  if (checked(H5Pget_external_count(plist.id()), where, "read the layout") > 0) {
    throw InputError(where + ": is stored in another file; only data of the file itself is read");
  }
}

}  // namespace
}  // namespace rwkv::hdf5

namespace rwkv {

using hdf5::checked;
using hdf5::owned;

bool Hdf5File::Impl::exists(const std::string& name) const {
  const hid_t id = live();
  for (size_t end = 0; end != std::string::npos;) {
    end = name.find('/', end + 1);
    const std::string part = name.substr(0, end);
    if (part.empty() || part.back() == '/') return false;
    if (checked<InputError>(H5Lexists(id, part.c_str(), H5P_DEFAULT), where(name), "look up") ==
        0) {
      return false;
    }
    H5L_info_t info;
    checked<InputError>(H5Lget_info(id, part.c_str(), &info, H5P_DEFAULT), where(name), "look up");
    if (info.type != H5L_TYPE_HARD) {
      throw InputError(where(name) + ": '" + part +
                       "' is a soft or external link; only data of the file itself is read");
    }
    H5O_info_t object;
    checked<InputError>(
        H5Oget_info_by_name2(id, part.c_str(), &object, H5O_INFO_BASIC, H5P_DEFAULT), where(name),
        "look up");
    const bool last = end == std::string::npos;
    if (object.type != (last ? H5O_TYPE_DATASET : H5O_TYPE_GROUP)) return false;
  }
  return true;
}

hdf5::Dataset Hdf5File::Impl::open(std::string_view name) const {
  const std::string at = where(name);
  if (!exists(std::string(name))) throw InputError(at + ": not there");
  hdf5::Dataset out;
  out.id = owned<InputError>(H5Dopen2(live(), std::string(name).c_str(), H5P_DEFAULT), at, "open");
  hdf5::refuse_storage_elsewhere(out.id.id(), at);
  const hdf5::Handle type = owned(H5Dget_type(out.id.id()), at, "read the type");
  const hdf5::Handle space = owned(H5Dget_space(out.id.id()), at, "read the shape");
  out.dtype = hdf5::dtype_from(type.id(), at);
  out.shape = hdf5::shape_from(space.id(), at);
  return out;
}

}  // namespace rwkv
