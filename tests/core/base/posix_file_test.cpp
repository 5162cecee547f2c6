#include "core/base/posix_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/base/error.h"

namespace rwkv {
namespace {

namespace fs = std::filesystem;

class PosixFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "rwkv_posix_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string in(const std::string& name) const { return (folder_ / name).string(); }

  fs::path folder_;
};

template <class E, class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing of that type was thrown";
}

std::string text_of(const MappedFile& map) {
  return {reinterpret_cast<const char*>(map.bytes().data()), map.bytes().size()};
}

TEST_F(PosixFile, ReadsBackWhatWasReplaced) {
  const std::string content = std::string("a\0b\n", 4) + std::string(100000, 'x');
  replace_file(in("f"), content);
  EXPECT_EQ(read_file(in("f")), content);
  replace_file(in("f"), "shorter");
  EXPECT_EQ(read_file(in("f")), "shorter");
  EXPECT_FALSE(fs::exists(in("f.tmp")));
}

TEST_F(PosixFile, ReadsAnEmptyFile) {
  replace_file(in("empty"), "");
  EXPECT_EQ(read_file(in("empty")), "");
}

TEST_F(PosixFile, ReadsAFileWhoseSizeIsNotKnown) {
  EXPECT_NE(read_file("/proc/self/status").find("Pid:"), std::string::npos);
}

TEST_F(PosixFile, ReadingAMissingFileIsTheUsersError) {
  const std::string path = in("nowhere");
  EXPECT_EQ(message_of<InputError>([&] { read_file(path); }), path + ": no such file");
}

TEST_F(PosixFile, OldContentSurvivesWhenTheTemporaryCannotBeMade) {
  replace_file(in("f"), "old");
  fs::create_directory(in("f.tmp"));
  EXPECT_THROW(replace_file(in("f"), "new"), IoError);
  EXPECT_EQ(read_file(in("f")), "old");
}

TEST_F(PosixFile, NothingIsLeftWhenTheTargetIsAFolder) {
  fs::create_directory(in("f"));
  EXPECT_THROW(replace_file(in("f"), "new"), IoError);
  EXPECT_TRUE(fs::is_directory(in("f")));
  EXPECT_FALSE(fs::exists(in("f.tmp")));
}

TEST_F(PosixFile, ATemporaryThatIsALinkIsNotFollowed) {
  replace_file(in("other"), "precious");
  fs::create_symlink(in("other"), in("f.tmp"));
  EXPECT_THROW(replace_file(in("f"), "new"), IoError);
  EXPECT_EQ(read_file(in("other")), "precious");
}

TEST_F(PosixFile, AStaleTemporaryOfACrashIsOverwritten) {
  std::ofstream(in("f.tmp")) << "half of something much longer";
  replace_file(in("f"), "new");
  EXPECT_EQ(read_file(in("f")), "new");
}

TEST_F(PosixFile, AnAtomicFileWithoutCommitChangesNothing) {
  replace_file(in("f"), "old");
  {
    AtomicFile file(in("f"));
    file.append(std::as_bytes(std::span(std::string_view("new"))));
    EXPECT_TRUE(fs::exists(in("f.tmp")));
  }
  EXPECT_EQ(read_file(in("f")), "old");
  EXPECT_FALSE(fs::exists(in("f.tmp")));
}

TEST_F(PosixFile, MakesNestedFoldersAndAcceptsThoseThatExist) {
  make_directories(in("a/b//c/"));
  EXPECT_TRUE(fs::is_directory(in("a/b/c")));
  EXPECT_NO_THROW(make_directories(in("a/b/c")));
  replace_file(in("file"), "");
  EXPECT_THROW(make_directories(in("file")), IoError);
  EXPECT_THROW(make_directories(in("file/below")), IoError);
}

TEST_F(PosixFile, SyncsFilesAndFoldersAndRefusesMissingOnes) {
  replace_file(in("f"), "x");
  EXPECT_NO_THROW(fsync_path(in("f")));
  EXPECT_NO_THROW(fsync_path(folder_.string()));
  EXPECT_THROW(fsync_path(in("missing")), IoError);
}

TEST_F(PosixFile, MapsAWholeFile) {
  replace_file(in("f"), "mapped");
  EXPECT_EQ(text_of(MappedFile(in("f"))), "mapped");
}

TEST_F(PosixFile, MapsAnEmptyFileToAnEmptySpan) {
  replace_file(in("f"), "");
  EXPECT_TRUE(MappedFile(in("f")).bytes().empty());
}

TEST_F(PosixFile, MappingRefusesWhatIsNoRegularFile) {
  EXPECT_THROW(MappedFile(in("missing")), InputError);
  EXPECT_EQ(message_of<InputError>([&] { MappedFile map(folder_.string()); }),
            folder_.string() + ": not a regular file");
  ASSERT_EQ(mkfifo(in("fifo").c_str(), 0600), 0);
  EXPECT_THROW(MappedFile(in("fifo")), InputError);  // and does not wait for a writer
}

TEST_F(PosixFile, ALockHeldByAnotherProcessIsRefusedAndGoesWithIt) {
  int ready[2], leave[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(leave), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    char c = 'n';
    try {
      const FileLock lock(in("lock"), "x");
      c = 'y';
      if (write(ready[1], &c, 1) != 1 || read(leave[0], &c, 1) != 1) _exit(1);
      _exit(0);  // without the destructor: the kernel lets go
    } catch (...) {
      if (write(ready[1], &c, 1) != 1) _exit(2);
    }
    _exit(3);
  }
  char c = 0;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  ASSERT_EQ(c, 'y');
  EXPECT_EQ(message_of<InputError>([&] { FileLock second(in("lock"), "run folder runs/a"); }),
            "run folder runs/a is in use by another job");
  ASSERT_EQ(write(leave[1], &c, 1), 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_NO_THROW(FileLock(in("lock"), "x"));
  for (int fd : {ready[0], ready[1], leave[0], leave[1]}) close(fd);
}

TEST_F(PosixFile, ALockIsRefusedWithinOneProcessToo) {
  const FileLock first(in("lock"), "x");
  EXPECT_THROW(FileLock(in("lock"), "x"), InputError);
}

}  // namespace
}  // namespace rwkv
