// A library of ours that is opened when it is asked for, so that the program starts without what
// the library needs (a driver, CUDA, NCCL).
#pragma once

#include <string>

namespace rwkv {

// Open from its construction to the end of the process.
class SharedLibrary {
 public:
  // `file` beside the program: in ../lib.
  explicit SharedLibrary(const std::string& file);

  // Whether the file is there, which is not opened.
  static bool exists(const std::string& file);

  // In a few words, why it cannot be used; empty: it can, so far.
  const std::string& why() const { return why_; }

  // A symbol as a pointer to T; nullptr, and `why` from then on, where the library has none.
  template <class T>
  T find(const char* symbol) {
    return reinterpret_cast<T>(find_symbol(symbol));
  }

 private:
  void* find_symbol(const char* symbol);

  std::string path_, why_;
  void* handle_ = nullptr;
};

}  // namespace rwkv
