// Files through POSIX, every return code checked here: whole reads, atomic replacement, directories
// made durable, memory maps, locks.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace rwkv {

std::string read_file(const std::string& path);  // throws InputError when it is not there
// The same without holding it: `use` gets all bytes, in order, in pieces of at most a megabyte.
void read_in_pieces(const std::string& path,
                    const std::function<void(std::span<const std::byte>)>& use);
// Writes `path`.tmp, fsyncs, renames over `path`, fsyncs the folder: old or new content, never
// half.
void replace_file(const std::string& path, std::string_view content);

// The same in pieces: bytes go to `path`.tmp; commit() fsyncs, renames over `path` and fsyncs the
// folder. Destroyed without a commit, it removes what it wrote. Throws IoError.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();
  void append(std::span<const std::byte> bytes);
  void commit();

 private:
  std::string path_, temporary_;
  int fd_ = -1;
};

void make_directories(const std::string& path);
void fsync_path(const std::string& path);  // a file or a folder

// A read-only map of a whole file; empty files map to an empty span. The size is taken once.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // InputError: not there, not a regular file
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Holds `path` (created when absent) locked until destroyed; the lock goes with the process.
class FileLock {
 public:
  // Throws InputError "<what> is in use by another job" when somebody else holds it.
  FileLock(const std::string& path, std::string_view what);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int fd_ = -1;
};

}  // namespace rwkv
