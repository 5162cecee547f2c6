// new and delete over one piece of memory that host and GPU share. Blocks are powers of two, kept
// in a list a size when they are freed; what does not fit is malloc's.
#include "tests/support/gpu/shared_new.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

#include "kernels/cuda_library.h"

namespace rwkv::test {
namespace {

constexpr size_t kRegion = size_t{1} << 30, kSmallest = 64;

struct Block {
  Block* next;
};

struct Region {
  std::mutex guard;
  std::byte *begin = nullptr, *free = nullptr;       // begin is set once
  std::array<Block*, 64> lists{};                    // by the logarithm of the size
  std::array<uint8_t, kRegion / kSmallest> sizes{};  // of the block that begins there, likewise
};
Region region;

uint8_t& size_at(const std::byte* p) {
  return region.sizes[static_cast<size_t>(p - region.begin) / kSmallest];
}

size_t block_of(size_t bytes, size_t alignment) {
  return std::bit_ceil(std::max({bytes, alignment, kSmallest}));
}

void* take(size_t bytes, size_t alignment) {
  const size_t block = block_of(bytes, alignment);
  const std::lock_guard lock(region.guard);
  if (region.begin == nullptr) return nullptr;
  const int size = std::countr_zero(block);
  Block*& list = region.lists[static_cast<size_t>(size)];
  if (list != nullptr) {
    Block* first = list;
    list = first->next;
    return first;
  }
  const auto used = static_cast<size_t>(region.free - region.begin);
  const size_t wanted = std::max(alignment, kSmallest);
  const size_t begin = (used + wanted - 1) / wanted * wanted;
  if (begin + block > kRegion) return nullptr;
  region.free = region.begin + begin + block;
  size_at(region.begin + begin) = static_cast<uint8_t>(size);
  return region.begin + begin;
}

void* allocate(size_t bytes, size_t alignment) {
  if (void* p = take(bytes, alignment)) return p;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  return alignment <= alignof(std::max_align_t) ? std::malloc(bytes == 0 ? 1 : bytes)
                                                : std::aligned_alloc(alignment, rounded);
}

void release(void* p) {
  auto* byte = static_cast<std::byte*>(p);
  if (region.begin == nullptr || byte < region.begin || byte >= region.begin + kRegion) {
    return std::free(p);
  }
  const std::lock_guard lock(region.guard);
  auto* block = static_cast<Block*>(p);
  Block*& list = region.lists[size_at(byte)];
  block->next = list;
  list = block;
}

}  // namespace

bool share_new() {
  if (region.begin != nullptr) return true;
  std::byte* memory = cuda_library().shared_memory(static_cast<int64_t>(kRegion));
  const std::lock_guard lock(region.guard);
  region.free = memory;
  region.begin = memory;
  return memory != nullptr;
}

}  // namespace rwkv::test

using rwkv::test::allocate;
using rwkv::test::release;

namespace {
constexpr size_t kDefault = alignof(std::max_align_t);
size_t number(std::align_val_t alignment) { return static_cast<size_t>(alignment); }
void* or_throw(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(size_t n) { return or_throw(allocate(n, kDefault)); }
void* operator new(size_t n, const std::nothrow_t&) noexcept { return allocate(n, kDefault); }
void* operator new(size_t n, std::align_val_t a) { return or_throw(allocate(n, number(a))); }
void* operator new(size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, number(a));
}
void operator delete(void* p) noexcept { release(p); }
void operator delete(void* p, size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { release(p); }
