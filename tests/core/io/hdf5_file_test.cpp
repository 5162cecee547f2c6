#include "core/io/hdf5_file.h"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "tests/core/io/io_fixture.h"

namespace rwkv {
namespace {

using Hdf5 = IoTest;

template <class T>
std::vector<T> back(const Hdf5File& file, const std::string& name) {
  std::vector<T> out(static_cast<size_t>(file.shape_of(name).elements()));
  file.read(name, view_of(out.data(), file.shape_of(name)));
  return out;
}

template <class T>
void expect_round_trip(const std::string& path, const std::vector<T>& values, const Shape& shape) {
  auto file = Hdf5File::create(path);
  file.write("group/data", view_of(values.data(), shape));
  file.close();
  const auto again = Hdf5File::open(path);
  EXPECT_EQ(again.dtype_of("group/data"), kDTypeOf<T>);
  EXPECT_EQ(again.shape_of("group/data"), shape);
  const auto got = back<T>(again, "group/data");
  ASSERT_EQ(got.size(), values.size());
  if (values.empty()) return;
  EXPECT_EQ(std::memcmp(got.data(), values.data(), values.size() * sizeof(T)), 0);
}

// Flushes the one file that this process has open.
bool flush_open_file() {
  hid_t file = -1;
  return H5Fget_obj_ids(H5F_OBJ_ALL, H5F_OBJ_FILE, 1, &file) == 1 &&
         H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0;
}

// A file that other software might have made.
class Foreign {
 public:
  explicit Foreign(const std::string& path)
      : id_(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)) {}
  ~Foreign() { H5Fclose(id_); }
  hid_t id() const { return id_; }

  void dataset(const char* name, hid_t type, std::vector<hsize_t> dims, const void* values,
               hid_t plist = H5P_DEFAULT) {
    const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
    const hid_t set = H5Dcreate2(id_, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    EXPECT_GE(set, 0);
    if (values != nullptr) {
      EXPECT_GE(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0);
    }
    H5Dclose(set);
    H5Sclose(space);
  }

 private:
  hid_t id_;
};

TEST_F(Hdf5, EveryTypeComesBackToTheBit) {
  const double inf = std::numeric_limits<double>::infinity();
  expect_round_trip<double>(in("f64"), {0.1, -0.0, inf, 1e-310, std::nan(""), 3}, {2, 3});
  expect_round_trip<float>(in("f32"), {0.1f, -0.0f, 1e-40f, std::nanf("")}, {4});
  expect_round_trip<int64_t>(in("i64"), {INT64_MIN, INT64_MAX, -1, 0}, {2, 1, 2});
  expect_round_trip<int32_t>(in("i32"), {INT32_MIN, INT32_MAX}, {2});
  expect_round_trip<uint16_t>(in("u16"), {0, 65535}, {1, 1, 1, 1, 1, 2});
  expect_round_trip<uint8_t>(in("u8"), {0, 255, 7}, {3});
}

TEST_F(Hdf5, EveryBf16ComesBackToTheBit) {
  std::vector<bf16> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  expect_round_trip<bf16>(in("bf16"), all, {256, 256});
}

TEST_F(Hdf5, ScalarsAndEmptyDatasetsKeepTheirShape) {
  expect_round_trip<float>(in("scalar"), {2.5f}, {});
  expect_round_trip<float>(in("empty"), {}, {0, 7});
}

TEST_F(Hdf5, ConvertsBetweenTypesOnReading) {
  // More than one slice of the conversion, the last one short.
  std::vector<float> values(size_t{3} * 400000);
  std::iota(values.begin(), values.end(), -7.0f);
  auto file = Hdf5File::create(in("f"));
  file.write("x", view_of(values.data(), {3, 400000}));
  file.close();
  const auto again = Hdf5File::open(in("f"));
  std::vector<double> wide(values.size());
  again.read("x", view_of(wide.data(), {3, 400000}));
  EXPECT_EQ(wide, std::vector<double>(values.begin(), values.end()));
  std::vector<int64_t> whole(values.size());
  again.read("x", view_of(whole.data(), {1200000}));
  EXPECT_EQ(whole.front(), -7);
  EXPECT_EQ(whole.back(), 1199992);
  std::vector<bf16> narrow(values.size());
  again.read("x", view_of(narrow.data(), {1200000}));
  EXPECT_EQ(static_cast<float>(narrow[7 + 257]), 256.0f);  // tie to even
  EXPECT_EQ(static_cast<float>(narrow[7 + 259]), 260.0f);
}

TEST_F(Hdf5, ReadsBf16AsFloat) {
  const std::vector<bf16> values{bf16(1.5f), bf16(-0.3f)};
  auto file = Hdf5File::create(in("f"));
  file.write("x", view_of(values.data(), {2}));
  std::vector<float> got(2);
  file.read("x", view_of(got.data(), {2}));
  EXPECT_EQ(got[0], 1.5f);
  EXPECT_EQ(got[1], static_cast<float>(bf16(-0.3f)));
}

TEST_F(Hdf5, ConversionToIntegersTakesOnlyWhatFits) {
  const std::vector<double> values{0.5, -1, 256, std::nan(""), 1e19, 9.2233720368547758e18};
  auto file = Hdf5File::create(in("f"));
  for (int i = 0; i < 6; ++i) {
    const std::string name = std::to_string(i);
    file.write(name, view_of(&values[static_cast<size_t>(i)], {1}));
    uint8_t byte = 0;
    EXPECT_THROW(file.read(name, view_of(&byte, {1})), InputError) << i;
  }
  int64_t big = 0;
  EXPECT_THROW(file.read("5", view_of(&big, {1})), InputError);
  file.read("1", view_of(&big, {1}));
  EXPECT_EQ(big, -1);
  const int64_t wide = 70000;
  file.write("wide", view_of(&wide, {1}));
  uint16_t small = 0;
  EXPECT_THROW(file.read("wide", view_of(&small, {1})), InputError);
}

TEST_F(Hdf5, RowsFillADataset) {
  auto file = Hdf5File::create(in("f"));
  file.create_dataset("loss", DType::kF32, {4, 2});
  const std::vector<float> a{1, 2}, b{3, 4, 5, 6}, c{7, 8};
  file.write_rows("loss", 3, view_of(c.data(), {1, 2}));
  file.write_rows("loss", 0, view_of(a.data(), {1, 2}));
  file.write_rows("loss", 1, view_of(b.data(), {2, 2}));
  file.write_rows("loss", 4, view_of(b.data(), {0, 2}));
  file.close();
  EXPECT_EQ(back<float>(Hdf5File::open(in("f")), "loss"),
            (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST_F(Hdf5, RowsOutsideOrOfAnotherKindAreRefused) {
  auto file = Hdf5File::create(in("f"));
  file.create_dataset("x", DType::kF32, {4, 2});
  const std::vector<float> v(8);
  const std::vector<double> d(8);
  EXPECT_THROW(file.write_rows("x", 3, view_of(v.data(), {2, 2})), Error);
  EXPECT_THROW(file.write_rows("x", -1, view_of(v.data(), {1, 2})), Error);
  EXPECT_THROW(file.write_rows("x", 0, view_of(v.data(), {1, 3})), Error);
  EXPECT_THROW(file.write_rows("x", 0, view_of(v.data(), {2})), Error);
  EXPECT_THROW(file.write_rows("x", 0, view_of(d.data(), {1, 2})), Error);
}

TEST_F(Hdf5, ListsDatasetsRecursivelyInOrder) {
  auto file = Hdf5File::create(in("f"));
  const float x = 1;
  for (const char* name : {"params/b", "a", "params/a/deep", "z"})
    file.write(name, view_of(&x, {}));
  EXPECT_EQ(file.datasets(), (std::vector<std::string>{"a", "params/a/deep", "params/b", "z"}));
  EXPECT_TRUE(file.has("params/a/deep"));
  EXPECT_FALSE(file.has("params/a"));
  EXPECT_FALSE(file.has("params/a/deep/er"));
  EXPECT_FALSE(file.has("nothing/at/all"));
}

TEST_F(Hdf5, AttributesKeepTheirValues) {
  const std::string recipe(100000, 'y');
  {
    auto file = Hdf5File::create(in("f"));
    file.set_attribute("recipe", recipe);
    file.set_attribute("empty", std::string_view());
    file.set_attribute("step", int64_t{1} << 60);
    file.set_attribute("step", int64_t{-5});
    file.set_attribute("scale", 0.1);
    file.close();
  }
  const auto file = Hdf5File::open(in("f"));
  EXPECT_EQ(file.text_attribute("recipe"), recipe);
  EXPECT_EQ(file.text_attribute("empty"), "");
  EXPECT_EQ(file.int_attribute("step"), -5);
  EXPECT_EQ(file.double_attribute("scale"), 0.1);
  EXPECT_TRUE(file.has_attribute("scale"));
  EXPECT_FALSE(file.has_attribute("nothing"));
  EXPECT_EQ(message_of<InputError>([&] { file.int_attribute("nothing"); }),
            in("f") + ": attribute 'nothing': not there");
  EXPECT_THROW(file.int_attribute("recipe"), InputError);
  EXPECT_THROW(file.text_attribute("step"), InputError);
  EXPECT_THROW(file.double_attribute("recipe"), InputError);
}

TEST_F(Hdf5, AMissingDatasetIsNamedWithItsFile) {
  Hdf5File::create(in("f")).close();
  const auto file = Hdf5File::open(in("f"));
  float x = 0;
  EXPECT_EQ(message_of<InputError>([&] { file.read("params/emb.weight", view_of(&x, {1})); }),
            in("f") + ": dataset 'params/emb.weight': not there");
}

TEST_F(Hdf5, AnotherShapeIsNamed) {
  auto file = Hdf5File::create(in("f"));
  const std::vector<float> v(6);
  file.write("x", view_of(v.data(), {2, 3}));
  std::vector<float> to(5);
  EXPECT_EQ(message_of<InputError>([&] { file.read("x", view_of(to.data(), {5})); }),
            in("f") + ": dataset 'x': has shape (2, 3), wanted is (5)");
}

TEST_F(Hdf5, CreatingOverAFileOrADatasetIsRefused) {
  auto file = Hdf5File::create(in("f"));
  const float x = 1;
  file.write("x", view_of(&x, {}));
  EXPECT_TRUE(contains(message_of<IoError>([&] { file.write("x", view_of(&x, {})); }),
                       in("f") + ": dataset 'x': cannot create: "));
  file.close();
  EXPECT_TRUE(contains(message_of<IoError>([&] { Hdf5File::create(in("f")); }),
                       in("f") + ": cannot create the file: "));
}

TEST_F(Hdf5, AFileOpenedToReadIsNotWritten) {
  Hdf5File::create(in("f")).close();
  auto file = Hdf5File::open(in("f"));
  const float x = 1;
  EXPECT_THROW(file.write("x", view_of(&x, {})), Error);
  EXPECT_THROW(file.set_attribute("x", int64_t{1}), Error);
  file.close();
  EXPECT_THROW(file.has("x"), Error);
}

TEST_F(Hdf5, MissingTruncatedAndOtherFilesAreTheUsersError) {
  EXPECT_EQ(message_of<InputError>([&] { Hdf5File::open(in("f")); }), in("f") + ": no such file");
  EXPECT_EQ(message_of<InputError>([&] { Hdf5File::open(folder_.string()); }),
            folder_.string() + ": not a regular file");
  replace_file(in("text"), "certainly not HDF5");
  EXPECT_TRUE(contains(message_of<InputError>([&] { Hdf5File::open(in("text")); }), "signature"));

  const std::vector<float> v(1 << 16);
  auto file = Hdf5File::create(in("f"));
  file.write("x", view_of(v.data(), {1 << 16}));
  file.close();
  std::filesystem::resize_file(in("f"), std::filesystem::file_size(in("f")) - 4096);
  EXPECT_TRUE(contains(message_of<InputError>([&] { Hdf5File::open(in("f")); }), "truncated"));
}

TEST_F(Hdf5, AFileNeverClosedDoesNotOpen) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Leaves two whole datasets and all of their metadata on the disk, then ends as by a kill.
    auto file = Hdf5File::create(in("f"));
    const std::vector<float> v(1 << 16);
    file.write("x", view_of(v.data(), {1 << 16}));
    file.write("y", view_of(v.data(), {1 << 16}));
    if (!flush_open_file()) _exit(1);
    _exit(0);
  }
  int status = 1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_GT(std::filesystem::file_size(in("f")), 0u);
  const std::string message = message_of<InputError>([&] { Hdf5File::open(in("f")); });
  EXPECT_TRUE(contains(message, "already open for write")) << message;
}

TEST_F(Hdf5, ReadsChunkedAndCompressedDataOfOthers) {
  std::vector<float> v(1000);
  std::iota(v.begin(), v.end(), 0.0f);
  {
    Foreign file(in("f"));
    const hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk[2] = {7, 9};
    H5Pset_chunk(plist, 2, chunk);
    H5Pset_shuffle(plist);
    H5Pset_deflate(plist, 4);
    file.dataset("x", H5T_IEEE_F32LE, {20, 50}, v.data(), plist);
    H5Pclose(plist);
  }
  EXPECT_EQ(back<float>(Hdf5File::open(in("f")), "x"), v);
}

TEST_F(Hdf5, TypesOutsideOursAreNamed) {
  {
    Foreign file(in("f"));
    const hid_t half = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(half, 15, 10, 5, 0, 10);
    H5Tset_size(half, 2);
    H5Tset_ebias(half, 15);
    file.dataset("half", half, {4}, nullptr);
    H5Tclose(half);
    file.dataset("big", H5T_IEEE_F32BE, {4}, nullptr);
    file.dataset("u32", H5T_STD_U32LE, {4}, nullptr);
    file.dataset("deep", H5T_IEEE_F32LE, {1, 1, 1, 1, 1, 1, 1}, nullptr);
  }
  const auto file = Hdf5File::open(in("f"));
  auto message = [&](const char* name) {
    return message_of<InputError>([&] { file.dtype_of(name); });
  };
  EXPECT_TRUE(contains(message("half"), "dataset 'half': holds f16;")) << message("half");
  EXPECT_TRUE(contains(message("big"), "big-endian"));
  EXPECT_TRUE(contains(message("u32"), "holds u32;"));
  EXPECT_TRUE(contains(message("deep"), "7 dimensions"));
}

TEST_F(Hdf5, DataOutsideTheFileIsRefused) {
  {
    Foreign other(in("other"));
    const float v = 1;
    other.dataset("x", H5T_IEEE_F32LE, {1}, &v);
    Foreign file(in("f"));
    H5Lcreate_external(in("other").c_str(), "x", file.id(), "link", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_soft("/stored", file.id(), "soft", H5P_DEFAULT, H5P_DEFAULT);
    const hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(plist, "/etc/hostname", 0, 4);
    file.dataset("stored", H5T_IEEE_F32LE, {1}, nullptr, plist);
    H5Pclose(plist);
    const hid_t view = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t one = 1;
    const hid_t space = H5Screate_simple(1, &one, nullptr);
    H5Pset_virtual(view, space, in("other").c_str(), "x", space);
    file.dataset("view", H5T_IEEE_F32LE, {1}, nullptr, view);
    H5Sclose(space);
    H5Pclose(view);
  }
  const auto file = Hdf5File::open(in("f"));
  EXPECT_EQ(file.datasets(), (std::vector<std::string>{"stored", "view"}));
  float x = 0;
  for (const char* name : {"link", "soft", "stored", "view"}) {
    EXPECT_THROW(file.read(name, view_of(&x, {1})), InputError) << name;
  }
}

TEST_F(Hdf5, ReadsTextOfFixedLength) {
  {
    Foreign file(in("f"));
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 8);
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t a = H5Acreate2(file.id(), "a", type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, type, "abc\0\0\0\0\0");
    H5Aclose(a);
    H5Sclose(space);
    H5Tclose(type);
  }
  EXPECT_EQ(Hdf5File::open(in("f")).text_attribute("a"), "abc");
}

TEST_F(Hdf5, H5pyReadsABf16DatasetAsFloats) {
  if (std::system("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0) {
    GTEST_SKIP() << "no h5py";
  }
  const std::vector<bf16> values{bf16(1.5f), bf16(-2.0f), bf16(0.0078125f)};
  auto file = Hdf5File::create(in("f"));
  file.write("params/x", view_of(values.data(), {3}));
  file.set_attribute("recipe", "text");
  file.close();
  const std::string script =
      "/usr/bin/python3 -c \"import h5py; f = h5py.File('" + in("f") +
      "', 'r'); x = f['params/x'][:]; assert x.dtype == 'float32', x.dtype; "
      "assert x.tolist() == [1.5, -2.0, 0.0078125], x; assert f.attrs['recipe'] == 'text'\"";
  EXPECT_EQ(std::system(script.c_str()), 0);
}

}  // namespace
}  // namespace rwkv
