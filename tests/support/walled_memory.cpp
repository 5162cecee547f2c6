#include "tests/support/walled_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "core/base/error.h"

namespace rwkv {
namespace {

struct Region {
  int64_t bytes = 0;  // as asked for
  size_t pages = 0;   // bytes of whole pages, without the guard
  int users = 0;      // copies and zeros under way
};

class Walls {
 public:
  std::byte* allocate(int64_t bytes) {
    const size_t page = page_bytes();
    const size_t pages = (static_cast<size_t>(bytes) + page - 1) / page * page;
    void* p = mmap(nullptr, pages + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    const std::lock_guard lock(mutex_);
    Region& region = regions_[static_cast<std::byte*>(p)];
    region = {bytes, pages, 0};
    if (open_ > 0) protect(static_cast<std::byte*>(p), region);
    ++counts_.allocations;
    counts_.live_bytes += bytes;
    return static_cast<std::byte*>(p);
  }

  void release(std::byte* p) {
    const std::lock_guard lock(mutex_);
    const auto found = regions_.find(p);
    require(found != regions_.end() && found->second.users == 0, "release of what was allocated");
    munmap(p, found->second.pages + page_bytes());
    counts_.live_bytes -= found->second.bytes;
    regions_.erase(found);
  }

  // Opens the allocation that [p, p + bytes) begins in, if there is one, until leave().
  void enter(const std::byte* p, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = find(p);
    if (found == regions_.end()) return;
    Region& region = found->second;
    require(p + bytes <= found->first + region.bytes, "a copy stays in its allocation");
    if (region.users++ == 0) protect(found->first, region);
  }

  void leave(const std::byte* p) {
    const std::lock_guard lock(mutex_);
    const auto found = find(p);
    if (found == regions_.end()) return;
    if (--found->second.users == 0) protect(found->first, found->second);
  }

  // by: 1 opens, -1 closes.
  void open(int by) {
    const std::lock_guard lock(mutex_);
    const bool was = open_ > 0;
    open_ += by;
    require(open_ >= 0, "walls are closed as often as they are opened");
    if (was == (open_ > 0)) return;
    for (auto& [p, region] : regions_) protect(p, region);
  }

  void count(bool copy) {
    const std::lock_guard lock(mutex_);
    ++(copy ? counts_.copies : counts_.zeros);
  }

  WalledCounts counts() {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

  bool holds(const std::byte* p) {
    const std::lock_guard lock(mutex_);
    return find(p) != regions_.end();
  }

 private:
  using Regions = std::map<std::byte*, Region>;

  static size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

  Regions::iterator find(const std::byte* p) {
    auto after = regions_.upper_bound(const_cast<std::byte*>(p));
    if (after == regions_.begin()) return regions_.end();
    --after;
    return p < after->first + after->second.pages ? after : regions_.end();
  }

  void protect(std::byte* p, const Region& region) const {
    const bool open = open_ > 0 || region.users > 0;
    require(mprotect(p, region.pages, open ? PROT_READ | PROT_WRITE : PROT_NONE) == 0, "mprotect");
  }

  std::mutex mutex_;
  Regions regions_;
  int open_ = 0;
  WalledCounts counts_;
};

// Never destroyed: buffers of static objects are released after it.
Walls& walls() {
  static Walls* const all = new Walls;
  return *all;
}

class Entered {
 public:
  Entered(const std::byte* p, int64_t bytes) : p_(p) { walls().enter(p, bytes); }
  ~Entered() { walls().leave(p_); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  const std::byte* p_;
};

std::atomic<int64_t> available_bytes{-1};

void copy_bytes(const Stream&, std::byte* to, const std::byte* from, int64_t bytes) {
  walls().count(true);
  const Entered target(to, bytes), source(from, bytes);
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

void zero_bytes(const Stream&, std::byte* to, int64_t bytes) {
  walls().count(false);
  const Entered target(to, bytes);
  std::memset(to, 0, static_cast<size_t>(bytes));
}

}  // namespace

const Memory& walled_memory() {
  static const Memory memory{
      .name = "walled",
      .host = false,
      .allocate = [](int64_t bytes) { return walls().allocate(bytes); },
      .release = [](std::byte* p) { walls().release(p); },
      .copy = copy_bytes,
      .zero = zero_bytes,
      .wait = [](const Stream&) {},
      .available = [] { return available_bytes.load(); },
  };
  return memory;
}

void open_walls() { walls().open(1); }
void close_walls() { walls().open(-1); }
void set_walled_available(int64_t bytes) { available_bytes = bytes; }
WalledCounts walled_counts() { return walls().counts(); }
bool is_walled(const void* p) { return walls().holds(static_cast<const std::byte*>(p)); }

}  // namespace rwkv
