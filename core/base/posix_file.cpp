#include "core/base/posix_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace rwkv {
namespace {

constexpr size_t kMostPerCall = size_t{1} << 30;  // Linux moves at most 2 GiB - 4 KiB in one call

std::string reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void fail(const std::string& path, const char* doing, int error) {
  throw IoError(path + ": cannot " + doing + ": " + reason(error));
}

// A descriptor that is closed on every way out.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// -1 and errno on failure, as open(2).
int try_open(const std::string& path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

// O_NONBLOCK, so that a FIFO is refused instead of waited for.
int open_regular(const std::string& path, size_t& size) {
  Descriptor fd(try_open(path, O_RDONLY | O_NONBLOCK));
  if (fd.get() < 0) {
    if (errno == ENOENT || errno == ENOTDIR) throw InputError(path + ": no such file");
    if (errno == EACCES) throw InputError(path + ": no permission to read it");
    fail(path, "open it", errno);
  }
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) fail(path, "stat it", errno);
  if (!S_ISREG(status.st_mode)) throw InputError(path + ": not a regular file");
  size = static_cast<size_t>(status.st_size);
  return fd.release();
}

void fsync_descriptor(int fd, const std::string& path) {
  int result;
  do {
    result = ::fsync(fd);
  } while (result != 0 && errno == EINTR);
  // EINVAL: a file system that has nothing to sync for folders says so.
  if (result != 0 && errno != EINVAL) fail(path, "fsync it", errno);
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

std::string read_file(const std::string& path) {
  size_t size = 0;
  const Descriptor fd(open_regular(path, size));
  std::string content(size, '\0');
  size_t done = 0;
  // The size is a first guess: files of /proc say 0, and somebody may be appending.
  for (;;) {
    if (done == content.size()) content.resize(content.size() + 4096);
    const size_t wanted = std::min(content.size() - done, kMostPerCall);
    const ssize_t got = ::read(fd.get(), content.data() + done, wanted);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "read it", errno);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  content.resize(done);
  return content;
}

void read_in_pieces(const std::string& path,
                    const std::function<void(std::span<const std::byte>)>& use) {
  size_t size = 0;
  const Descriptor fd(open_regular(path, size));
  std::vector<std::byte> piece(size_t{1} << 20);
  for (;;) {
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "read it", errno);
    if (got == 0) return;
    use({piece.data(), static_cast<size_t>(got)});
  }
}

AtomicFile::AtomicFile(const std::string& path) : path_(path), temporary_(path + ".tmp") {
  fd_ = try_open(temporary_, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0666);
  if (fd_ < 0) fail(temporary_, "create it", errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  require(fd_ >= 0, "append() after commit()");
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd_, bytes.data(), std::min(bytes.size(), kMostPerCall));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(temporary_, "write it", errno);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void AtomicFile::commit() {
  require(fd_ >= 0, "commit() twice");
  fsync_descriptor(fd_, temporary_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "replace it", errno);
  // From here on the content stands; the destructor has nothing left to remove.
  if (::close(std::exchange(fd_, -1)) != 0) fail(path_, "close it", errno);
  fsync_path(folder_of(path_));
}

void replace_file(const std::string& path, std::string_view content) {
  AtomicFile file(path);
  file.append(std::as_bytes(std::span(content)));
  file.commit();
}

void make_directories(const std::string& path) {
  if (path.empty()) return;
  struct stat status;
  if (::stat(path.c_str(), &status) == 0) {
    if (!S_ISDIR(status.st_mode)) throw IoError(path + ": exists and is not a folder");
    return;
  }
  if (errno != ENOENT) fail(path, "create the folder", errno);
  const size_t last = path.find_last_not_of('/');
  const std::string trimmed = path.substr(0, last + 1);
  const std::string parent = folder_of(trimmed);
  make_directories(parent);
  if (::mkdir(trimmed.c_str(), 0777) != 0) {
    if (errno != EEXIST) fail(trimmed, "create the folder", errno);
    // Another rank may have been faster; a file or a dangling link in the way is an error.
    if (::stat(trimmed.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
      throw IoError(trimmed + ": exists and is not a folder");
    }
  }
  fsync_path(parent);
}

void fsync_path(const std::string& path) {
  const Descriptor fd(try_open(path, O_RDONLY | O_NONBLOCK));
  if (fd.get() < 0) fail(path, "open it for fsync", errno);
  fsync_descriptor(fd.get(), path);
}

MappedFile::MappedFile(const std::string& path) {
  const Descriptor fd(open_regular(path, size_));
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (map == MAP_FAILED) fail(path, "map it", errno);
  data_ = static_cast<const std::byte*>(map);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

FileLock::FileLock(const std::string& path, std::string_view what) {
  Descriptor fd(try_open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0666));
  if (fd.get() < 0) fail(path, "open the lock", errno);
  int result;
  do {
    result = ::flock(fd.get(), LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EWOULDBLOCK) {
    throw InputError(std::string(what) + " is in use by another job");
  }
  if (result != 0) fail(path, "lock it", errno);
  fd_ = fd.release();
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace rwkv
