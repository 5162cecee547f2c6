// A small file system, to be full or read-only.
#pragma once

#include <sys/mount.h>

#include <filesystem>
#include <string>
#include <utility>

namespace rwkv::test {

// Mounted on `path` (made here) for as long as the object lives; ready() is false where mounting is
// not allowed.
class SmallDisk {
 public:
  explicit SmallDisk(std::string path, int megabytes = 1)
      : path_(std::move(path)), size_("size=" + std::to_string(megabytes) + "m") {
    std::filesystem::create_directory(path_);
    ready_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, size_.c_str()) == 0;
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() {
    if (ready_) umount2(path_.c_str(), MNT_DETACH);
  }
  bool ready() const { return ready_; }
  // From here on nothing can be written; false: that is not allowed.
  bool freeze() const {
    return mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, size_.c_str()) == 0;
  }

 private:
  std::string path_, size_;
  bool ready_;
};

}  // namespace rwkv::test
