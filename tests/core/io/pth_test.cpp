#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "core/io/tensor_file.h"
#include "core/io/zip_stored.h"
#include "tests/core/io/io_fixture.h"
#include "tests/core/io/pickle_maker.h"

namespace rwkv {
namespace {

using Place = PickleMaker::Place;

template <class T>
std::string as_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

class Pth : public IoTest {
 protected:
  // An archive of the pickle and the storages data/0, data/1, ...
  std::string archive(const PickleMaker& pickle, const std::vector<std::string>& storages,
                      const std::string& order = "little") const {
    StoredZipWriter zip(in("made.pth"));
    zip.add("stem/data.pkl", pickle.bytes());
    zip.add("stem/byteorder", std::as_bytes(std::span(order)));
    for (size_t i = 0; i < storages.size(); ++i) {
      zip.add("stem/data/" + std::to_string(i), std::as_bytes(std::span(storages[i])));
    }
    zip.finish();
    return read_file(in("made.pth"));
  }
};

TensorMap parse(const std::string& file) {
  return parse_pth(std::as_bytes(std::span(file)), "file.pth");
}

std::string file_refusal(const std::string& file) {
  return message_of<InputError>([&] { parse(file); });
}

NamedTensor tensor(const std::string& name, const std::vector<int64_t>& shape,
                   const std::vector<float>& values) {
  return {name, shape, DType::kF32, values};
}

std::vector<NamedTensor> some_tensors() {
  std::vector<float> many(6000);
  for (size_t i = 0; i < many.size(); ++i) many[i] = std::sin(static_cast<float>(i)) * 1e-3f;
  return {tensor("emb.weight", {100, 60}, many),
          tensor("blocks.0.att.w0", {1, 1, 3}, {1, -2, 0.1f}), tensor("scalar", {}, {7}),
          tensor("empty", {0, 4}, {})};
}

TEST_F(Pth, RoundTripsFloatsToTheBit) {
  write_pth(in("f.pth"), some_tensors(), DType::kF32);
  const TensorMap got = read_pth(in("f.pth"));
  EXPECT_EQ(got.size(), 4u);
  for (const NamedTensor& t : some_tensors()) {
    const NamedTensor& back = got.at(t.name);
    EXPECT_EQ(back.name, t.name);
    EXPECT_EQ(back.shape, t.shape) << t.name;
    EXPECT_EQ(back.values, t.values) << t.name;
    EXPECT_EQ(back.stored, DType::kF32);
  }
}

TEST_F(Pth, WritesBf16RoundedToNearest) {
  write_pth(in("f.pth"), some_tensors(), DType::kBF16);
  const TensorMap got = read_pth(in("f.pth"));
  for (const NamedTensor& t : some_tensors()) {
    EXPECT_EQ(got.at(t.name).stored, DType::kBF16);
    for (size_t i = 0; i < t.values.size(); ++i) {
      ASSERT_EQ(got.at(t.name).values[i], static_cast<float>(bf16(t.values[i])));
    }
  }
}

TEST_F(Pth, TheSameTensorsGiveTheSameFile) {
  write_pth(in("a.pth"), some_tensors(), DType::kF32);
  write_pth(in("b.pth"), some_tensors(), DType::kF32);
  EXPECT_EQ(read_file(in("a.pth")), read_file(in("b.pth")));
}

TEST_F(Pth, ReadsHalfAndDouble) {
  const std::vector<uint16_t> half = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000,
                                      0x03ff, 0x7c00, 0xfc00, 0x7e00, 0x3555};
  const std::vector<double> wide = {0.1, 1e300, -3};
  PickleMaker p = PickleMaker().ordered_dict().raw("(");
  p.text("h").tensor({"HalfStorage", "0", 10, 0, {10}, {1}});
  p.text("d").tensor({"DoubleStorage", "1", 3, 0, {3}, {1}}).raw("u.");
  const TensorMap got = parse(archive(p, {as_bytes(half), as_bytes(wide)}));
  const auto& h = got.at("h").values;
  const std::vector<float> wanted = {1, -2, 65504, 0x1p-24f, -0.0f, 1023 * 0x1p-24f};
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(h[i], wanted[i]) << i;
  EXPECT_TRUE(std::signbit(h[4]));
  EXPECT_EQ(h[6], std::numeric_limits<float>::infinity());
  EXPECT_EQ(h[7], -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(h[8]));
  EXPECT_EQ(h[9], 1365 * 0x1p-12f);
  EXPECT_EQ(got.at("h").stored, DType::kF32);
  EXPECT_EQ(got.at("d").values[0], 0.1f);
  EXPECT_EQ(got.at("d").values[1], std::numeric_limits<float>::infinity());
  EXPECT_EQ(got.at("d").stored, DType::kF64);
}

TEST_F(Pth, MakesViewsContiguous) {
  std::vector<float> storage(24);
  for (size_t i = 0; i < storage.size(); ++i) storage[i] = static_cast<float>(i);
  PickleMaker p = PickleMaker().ordered_dict().raw("(");
  p.text("transposed").tensor({"FloatStorage", "0", 24, 1, {2, 3}, {1, 4}});
  p.text("slice").tensor({"FloatStorage", "0", 24, 10, {2, 2}, {6, 1}});
  p.text("expanded").tensor({"FloatStorage", "0", 24, 23, {2, 2}, {0, 0}});
  p.text("unit").tensor({"FloatStorage", "0", 24, 3, {1, 2}, {99, 1}});
  p.text("deep").tensor({"FloatStorage", "0", 24, 0, {2, 3, 2}, {1, 8, 2}}).raw("u.");
  const TensorMap got = parse(archive(p, {as_bytes(storage)}));
  EXPECT_EQ(got.at("transposed").values, (std::vector<float>{1, 5, 9, 2, 6, 10}));
  EXPECT_EQ(got.at("slice").values, (std::vector<float>{10, 11, 16, 17}));
  EXPECT_EQ(got.at("expanded").values, (std::vector<float>(4, 23)));
  EXPECT_EQ(got.at("unit").values, (std::vector<float>{3, 4}));
  EXPECT_EQ(got.at("deep").values, (std::vector<float>{0, 2, 8, 10, 16, 18, 1, 3, 9, 11, 17, 19}));
}

TEST_F(Pth, StorageAndEntryMustHaveTheSameSize) {
  const std::string four = as_bytes(std::vector<float>(4));
  EXPECT_EQ(parse(archive(one_tensor({}), {four})).at("x").values, std::vector<float>(4));
  for (int64_t declared : {int64_t{3}, int64_t{5}, int64_t{1} << 62, INT64_MAX}) {
    const Place place{"FloatStorage", "0", declared, 0, {3}, {1}};
    EXPECT_TRUE(contains(file_refusal(archive(one_tensor(place), {four})), "'data/0' has 16 bytes"))
        << declared;
  }
  EXPECT_TRUE(contains(file_refusal(archive(one_tensor({}), {four + "x"})), "has 17 bytes"));
  EXPECT_EQ(file_refusal(archive(one_tensor({}), {})), "file.pth: entry 'data/0' is missing");
}

TEST_F(Pth, OnlyLittleEndianIsRead) {
  const std::string four = as_bytes(std::vector<float>(4));
  EXPECT_TRUE(contains(file_refusal(archive(one_tensor({}), {four}, "big")), "byte order"));
}

TEST_F(Pth, OtherArchivesAndMissingFilesAreRefused) {
  StoredZipWriter zip(in("other.zip"));
  zip.add("hello.txt", {});
  zip.add("a/b/data.pkl", {});
  zip.finish();
  EXPECT_EQ(file_refusal(read_file(in("other.zip"))),
            "file.pth: a zip archive, but not one of torch.save");
  StoredZipWriter two(in("two.zip"));
  two.add("a/data.pkl", {});
  two.add("b/data.pkl", {});
  two.finish();
  EXPECT_TRUE(contains(file_refusal(read_file(in("two.zip"))), "more than one data.pkl"));
  EXPECT_EQ(message_of<InputError>([&] { read_pth(in("no.pth")); }),
            in("no.pth") + ": no such file");
  replace_file(in("no.pth"), "");
  EXPECT_TRUE(contains(message_of<InputError>([&] { read_pth(in("no.pth")); }),
                       in("no.pth") + ": not a zip archive"));
}

TEST_F(Pth, WritingIsAtomic) {
  write_pth(in("f.pth"), some_tensors(), DType::kF32);
  std::filesystem::create_directory(in("f.pth.tmp"));
  EXPECT_THROW(write_pth(in("f.pth"), {}, DType::kF32), IoError);
  EXPECT_EQ(read_pth(in("f.pth")).size(), 4u);
}

TEST_F(Pth, InconsistentTensorsAreNotWritten) {
  EXPECT_THROW(write_pth(in("f"), {tensor("a", {3}, {1})}, DType::kF32), Error);
  EXPECT_THROW(write_pth(in("f"), {tensor("a", {1}, {1}), tensor("a", {1}, {1})}, DType::kF32),
               Error);
  EXPECT_THROW(write_pth(in("f"), {}, DType::kF64), Error);
  EXPECT_FALSE(std::filesystem::exists(in("f")));
}

TEST_F(Pth, AnyTruncationIsRefused) {
  write_pth(in("f.pth"), {tensor("a", {2, 2}, {1, 2, 3, 4})}, DType::kF32);
  const std::string whole = read_file(in("f.pth"));
  for (size_t n = 0; n < whole.size(); ++n) {
    ASSERT_NE(file_refusal(whole.substr(0, n)), "nothing was thrown") << n;
  }
}

TEST_F(Pth, AnyMutationEndsInAResultOrARefusal) {
  write_pth(in("f.pth"), {tensor("a", {2, 2}, {1, 2, 3, 4}), tensor("b", {3}, {1, 2, 3})},
            DType::kBF16);
  const std::string whole = read_file(in("f.pth"));
  std::mt19937 random(2);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = whole;
    for (size_t k = 1 + random() % 3; k > 0; --k) {
      // Half of the changes go to the directory, which no checksum guards.
      const size_t tail = random() % 2 == 0 ? std::min<size_t>(bytes.size(), 400) : bytes.size();
      const size_t at = bytes.size() - 1 - random() % tail;
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = static_cast<char>(random() % 2 == 0 ? 0 : 0xff);
          break;
        case 2:
          bytes.erase(at, 1 + random() % 8);
          break;
        default:
          bytes.insert(at, whole.substr(random() % whole.size(), random() % 64));
      }
      if (bytes.empty()) bytes = "x";
    }
    refused += file_refusal(bytes) != "nothing was thrown" ? 1 : 0;
  }
  EXPECT_GT(refused, 10000);
  EXPECT_LT(refused, 20000);
}

TEST(RealPth, AFileOfTorchIsRead) {
  const char* folder = std::getenv("RWKV_TEST_DATA");
  const std::string path =
      std::string(folder != nullptr ? folder : RWKV_SOURCE_DIR "/../shared/data") +
      "/reverse_L2_only_rwkv7.pth";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
  const TensorMap got = read_pth(path);
  ASSERT_EQ(got.size(), 99u);
  EXPECT_EQ(got.at("e.weight").shape, (std::vector<int64_t>{12, 32}));
  EXPECT_EQ(got.at("rwkv1.x_r").shape, (std::vector<int64_t>{1, 1, 32}));
  EXPECT_EQ(got.at("e.weight").values[0], -0.00894071813672781f);
  EXPECT_EQ(got.at("e.weight").values[3], -1.1347254514694214f);
  double sum = 0, squares = 0;
  for (const auto& [name, t] : got) {
    for (float v : t.values) {
      sum += static_cast<double>(v);
      squares += static_cast<double>(v) * static_cast<double>(v);
    }
  }
  EXPECT_NEAR(sum, 280.3170576743437, 1e-9);
  EXPECT_NEAR(squares, 15086.085493296263, 1e-9);
}

// Python's own zipfile and pickle stand in for torch.load, whose unpickler knows fewer
// instructions: those in the file are compared with its list.
constexpr const char* kReadByPython = R"(
import collections, pickle, pickletools, struct, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
assert archive.testzip() is None
assert all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())
assert archive.read('archive/byteorder') == b'little'
assert archive.read('archive/version') == b'3\n'
known = set('''APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD
EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWOBJ
NEWTRUE NONE PROTO REDUCE SETITEM SETITEMS SHORT_BINSTRING STOP TUPLE TUPLE1 TUPLE2 TUPLE3'''.split())
code = archive.read('archive/data.pkl')
assert {op.name for op, _, _ in pickletools.genops(code)} <= known
class Loader(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ('collections', 'OrderedDict'):
            return collections.OrderedDict
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return lambda *arguments: arguments
        assert (module, name) == ('torch', 'FloatStorage'), (module, name)
        return name
    def persistent_load(self, pid):
        assert pid[0] == 'storage' and pid[1] == 'FloatStorage' and pid[3] == 'cpu'
        data = archive.read('archive/data/' + pid[2])
        assert len(data) == 4 * pid[4]
        return struct.unpack('<%df' % pid[4], data)
state = Loader(archive.open('archive/data.pkl')).load()
assert type(state) is collections.OrderedDict
assert list(state) == ['emb.weight', 'blocks.0.att.w0', 'scalar', 'empty'], list(state)
for storage, offset, shape, stride, grad, hooks in state.values():
    assert offset == 0 and grad is False and hooks == collections.OrderedDict()
assert state['emb.weight'][2:4] == ((100, 60), (60, 1))
assert state['blocks.0.att.w0'][0] == (1.0, -2.0, struct.unpack('<f', struct.pack('<f', 0.1))[0])
assert state['scalar'][0] == (7.0,) and state['scalar'][2] == ()
)";

TEST_F(Pth, PythonReadsWhatIsWritten) {
  if (std::system("python3 -c '' 2>/dev/null") != 0) GTEST_SKIP() << "no python3";
  write_pth(in("f.pth"), some_tensors(), DType::kF32);
  replace_file(in("read.py"), kReadByPython);
  EXPECT_EQ(std::system(("python3 " + in("read.py") + " " + in("f.pth")).c_str()), 0);
}

}  // namespace
}  // namespace rwkv
