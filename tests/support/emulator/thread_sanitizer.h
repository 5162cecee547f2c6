// What the thread sanitizer is told of fibers: each is a thread to it, which comes after others by
// what says so on a GPU: the launch, and barriers of the block, a team or a warp; not by shuffles.
// So it finds races of kernels that no order of turns has shown. Blocks of a launch it takes to run
// one after the other. Without it all of this is nothing.
//
// RWKV_TSAN_FIBERS: the build has the sanitizer, and this file's includer, the machine under the
// fibers, is itself compiled without it: the machine switches from thread to thread as it likes.
#pragma once

#include <cstddef>

#ifdef RWKV_TSAN_FIBERS
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read16(void*);
extern "C" void __tsan_write16(void*);
#endif

namespace rwkv::device::tsan {

#ifdef RWKV_TSAN_FIBERS
inline void* current() { return __tsan_get_current_fiber(); }
inline void* create() { return __tsan_create_fiber(0); }
// ordered: what `to` does from now on comes after what the caller did.
inline void switch_to(void* to, bool ordered) {
  __tsan_switch_to_fiber(to, ordered ? 0 : __tsan_switch_to_fiber_no_sync);
}
inline void arrive(void* barrier) { __tsan_release(barrier); }
inline void leave(void* barrier) { __tsan_acquire(barrier); }
inline void reads16(const std::byte* from) { __tsan_read16(const_cast<std::byte*>(from)); }
inline void writes16(std::byte* to) { __tsan_write16(to); }
#else
inline void* current() { return nullptr; }
inline void* create() { return nullptr; }
inline void switch_to(void*, bool) {}
inline void arrive(void*) {}
inline void leave(void*) {}
inline void reads16(const std::byte*) {}
inline void writes16(std::byte*) {}
#endif

}  // namespace rwkv::device::tsan
