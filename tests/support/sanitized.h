// Under sanitizers emulated kernels take some thirty times as long, parsers ten times: tests of
// many cases run some of them there, and all of them in the release build.
#pragma once

namespace rwkv::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace rwkv::test
