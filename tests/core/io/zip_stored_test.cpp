#include "core/io/zip_stored.h"

#include <gtest/gtest.h>
#include <zip.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/posix_file.h"
#include "tests/core/io/io_fixture.h"

namespace rwkv {
namespace {

using Contents = std::map<std::string, std::string>;

class StoredZip : public IoTest, public testing::WithParamInterface<uint64_t> {
 protected:
  std::string written(const Contents& contents, uint64_t zip64_from = 0xffffffff) const {
    StoredZipWriter zip(in("a.zip"), zip64_from);
    for (const auto& [name, text] : contents) zip.add(name, std::as_bytes(std::span(text)));
    zip.finish();
    return read_file(in("a.zip"));
  }
};

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string text_of(const ZipEntry& entry) {
  return {reinterpret_cast<const char*>(entry.data.data()), entry.data.size()};
}

Contents contents_of(const std::string& archive) {
  Contents out;
  for (const ZipEntry& entry : read_stored_zip(bytes_of(archive), "f")) {
    check_crc(entry, "f");
    out[std::string(entry.name)] = text_of(entry);
  }
  return out;
}

std::string archive_refusal(const std::string& archive) {
  return message_of<InputError>([&] { contents_of(archive); });
}

const Contents& example() {
  static const Contents contents = {
      {"a/data.pkl", "pickle"}, {"a/data/0", std::string(1000, 'x')}, {"a/empty", ""}};
  return contents;
}

// An archive made by libzip.
void make_foreign(const std::string& path, const Contents& contents, int method,
                  bool encrypted = false) {
  int error = 0;
  zip_t* zip = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &error);
  ASSERT_NE(zip, nullptr);
  for (const auto& [name, text] : contents) {
    zip_source_t* source = zip_source_buffer(zip, text.data(), text.size(), 0);
    const auto index = zip_file_add(zip, name.c_str(), source, ZIP_FL_ENC_UTF_8);
    ASSERT_GE(index, 0);
    ASSERT_EQ(zip_set_file_compression(zip, static_cast<zip_uint64_t>(index), method, 0), 0);
    if (encrypted) {
      ASSERT_EQ(zip_file_set_encryption(zip, static_cast<zip_uint64_t>(index), ZIP_EM_TRAD_PKWARE,
                                        "password"),
                0);
    }
  }
  ASSERT_EQ(zip_close(zip), 0);
}

TEST_P(StoredZip, ReadsWhatItWrote) {
  EXPECT_EQ(contents_of(written(example(), GetParam())), example());
  EXPECT_EQ(contents_of(written({}, GetParam())), Contents());
}

TEST_P(StoredZip, DataIsAligned) {
  const std::string archive = written(example(), GetParam());
  for (const ZipEntry& entry : read_stored_zip(bytes_of(archive), "f")) {
    EXPECT_EQ((entry.data.data() - bytes_of(archive).data()) % 64, 0) << entry.name;
  }
}

TEST_P(StoredZip, LibzipReadsWhatIsWritten) {
  written(example(), GetParam());
  int error = 0;
  zip_t* zip = zip_open(in("a.zip").c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &error);
  ASSERT_NE(zip, nullptr) << error;
  Contents got;
  for (zip_int64_t i = 0; i < zip_get_num_entries(zip, 0); ++i) {
    const auto index = static_cast<zip_uint64_t>(i);
    zip_file_t* file = zip_fopen_index(zip, index, 0);
    ASSERT_NE(file, nullptr);
    std::string text(2000, '\0');
    const auto size = zip_fread(file, text.data(), text.size());
    ASSERT_GE(size, 0);
    EXPECT_EQ(zip_fclose(file), 0);  // compares the checksum
    got[zip_get_name(zip, index, 0)] = text.substr(0, static_cast<size_t>(size));
  }
  zip_discard(zip);
  EXPECT_EQ(got, example());
}

// The usual form, everything as zip64, and a mixture.
INSTANTIATE_TEST_SUITE_P(Zip64From, StoredZip, testing::Values(0xffffffff, 0, 500));

class ForeignZip : public StoredZip {};

TEST_F(ForeignZip, StoredEntriesOfLibzipAreRead) {
  make_foreign(in("b.zip"), example(), ZIP_CM_STORE);
  EXPECT_EQ(contents_of(read_file(in("b.zip"))), example());
}

TEST_F(ForeignZip, CompressedAndEncryptedEntriesAreRefused) {
  make_foreign(in("b.zip"), {{"a/data.pkl", std::string(1000, 'x')}}, ZIP_CM_DEFLATE);
  EXPECT_EQ(archive_refusal(read_file(in("b.zip"))),
            "f: entry 'a/data.pkl': compressed; only stored ones are read");
  make_foreign(in("c.zip"), example(), ZIP_CM_STORE, true);
  EXPECT_TRUE(contains(archive_refusal(read_file(in("c.zip"))), "encrypted"));
}

TEST_F(ForeignZip, NamesThatArePathsElsewhereAreRefused) {
  for (const char* name : {"../x", "a/../../x", "/etc/passwd", "a\\..\\x", "a/.."}) {
    EXPECT_TRUE(contains(archive_refusal(written({{name, "x"}})), "not a plain relative name"))
        << name;
  }
}

TEST_F(ForeignZip, OtherFilesAreRefused) {
  EXPECT_TRUE(contains(archive_refusal(""), "not a zip archive"));
  EXPECT_TRUE(contains(archive_refusal("\x80\x02}."), "not a zip archive"));
  EXPECT_TRUE(contains(archive_refusal(std::string(200000, 'P')), "not a zip archive"));
}

// Replaces the nth occurrence (from 0) of `from`, same length.
std::string with(std::string archive, const std::string& from, const std::string& to, int nth) {
  size_t at = archive.find(from);
  for (; nth > 0; --nth) at = archive.find(from, at + 1);
  EXPECT_NE(at, std::string::npos);
  return archive.replace(at, to.size(), to);
}

TEST_F(ForeignZip, TheTwoHeadersOfAnEntryMustAgree) {
  const std::string archive = written({{"a/one", "1111"}, {"a/two", "2222"}});
  EXPECT_TRUE(contains(archive_refusal(with(archive, "a/one", "a/eno", 0)), "differ in the name"));
  const auto local = archive.find("PK\x03\x04"), central = archive.find("PK\x01\x02");
  auto changed = [&](size_t at, char c) {
    std::string out = archive;
    out[at] = c;
    return archive_refusal(out);
  };
  EXPECT_TRUE(contains(changed(local + 8, 8), "differ in the method"));
  EXPECT_TRUE(contains(changed(local + 14, 1), "differ in the checksum"));
  EXPECT_TRUE(contains(changed(local + 18, 5), "differ in the size"));
  EXPECT_TRUE(contains(changed(local + 6, 8), "differ in the flags"));
  EXPECT_TRUE(contains(changed(central + 42, 1), "differ in their place"));
  EXPECT_TRUE(contains(changed(central + 34, 1), "another part"));
}

TEST_F(ForeignZip, OverlapsAndRepeatsAreRefused) {
  const std::string archive = written({{"a/one", "1111"}, {"a/two", "2222"}});
  const auto second_local = archive.find("PK\x03\x04", 4);
  const auto first = archive.find("PK\x01\x02"), second = archive.find("PK\x01\x02", first + 4);
  const auto end = archive.find("PK\x05\x06");
  // Both directory entries point at the first file.
  std::string twice = archive;
  twice.replace(second, end - second, archive.substr(first, second - first));
  EXPECT_TRUE(contains(archive_refusal(twice), "there twice"));
  // The first file reaches into the second: its size, and its checksum with it, are made to fit.
  std::string overlap = archive;
  const size_t begin = archive.find("1111");
  const uint32_t crc = crc32(bytes_of(archive).subspan(begin, second_local - begin + 10));
  const auto size = static_cast<uint32_t>(second_local - begin + 10);
  for (size_t at : {size_t{14}, first + 16}) std::memcpy(overlap.data() + at, &crc, 4);
  for (size_t at : {size_t{18}, size_t{22}, first + 20, first + 24}) {
    std::memcpy(overlap.data() + at, &size, 4);
  }
  EXPECT_TRUE(contains(archive_refusal(overlap), "'a/one': overlaps")) << archive_refusal(overlap);
}

TEST_F(ForeignZip, AFlippedBitOfTheDataIsNoticed) {
  EXPECT_EQ(archive_refusal(with(written({{"a/one", "1111"}}), "1111", "1110", 0)),
            "f: entry 'a/one': damaged (its checksum does not match)");
}

TEST_F(ForeignZip, AnyTruncationIsRefused) {
  for (uint64_t from : {uint64_t{0xffffffff}, uint64_t{0}}) {
    const std::string archive = written(example(), from);
    for (size_t n = 0; n < archive.size(); ++n) {
      ASSERT_NE(archive_refusal(archive.substr(0, n)), "nothing was thrown") << n;
    }
  }
}

TEST(Crc32, GivesTheKnownNumbers) {
  EXPECT_EQ(crc32({}), 0u);
  EXPECT_EQ(crc32(bytes_of("123456789")), 0xcbf43926u);  // the standard's check value
  EXPECT_EQ(crc32(bytes_of("6789"), crc32(bytes_of("12345"))), 0xcbf43926u);
}

TEST(InQuotes, KeepsMessagesToOneShortPrintableLine) {
  EXPECT_EQ(in_quotes("a\nb\x1b"), "'a?b?'");
  EXPECT_EQ(in_quotes(std::string(100, 'x')), "'" + std::string(80, 'x') + "...'");
}

}  // namespace
}  // namespace rwkv
