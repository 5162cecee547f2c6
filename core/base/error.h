// Typed errors and the one way to check a contract.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace rwkv {

// What the process ends with; the same on every rank.
enum class ExitCode : int {
  kDone = 0,
  kStopped = 85,   // stopped on request, checkpoint written, run again
  kHang = 86,      // a peer did not arrive in time
  kFatal = 87,     // everything else that ends a run
  kBadInput = 88,  // recipe or input
};

// The caller's position, taken as a default argument, so that no macro is needed.
struct Here {
  const char* file;
  int line;
  Here(const char* f = __builtin_FILE(), int l = __builtin_LINE()) : file(f), line(l) {}
};

// Base of all errors. `what()` is the one line that the user sees.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& what, ExitCode code = ExitCode::kFatal)
      : std::runtime_error(what), code_(code) {}
  ExitCode exit_code() const { return code_; }

 private:
  ExitCode code_;
};

// A recipe, a command line, or a data file that the user can mend.
class InputError : public Error {
 public:
  explicit InputError(const std::string& what) : Error(what, ExitCode::kBadInput) {}
};

// A file that could not be read or written for a reason outside its content.
class IoError : public Error {
 public:
  explicit IoError(const std::string& what) : Error(what, ExitCode::kFatal) {}
};

// MPI, NCCL or a thread rank failed.
class CommError : public Error {
 public:
  explicit CommError(const std::string& what) : Error(what, ExitCode::kFatal) {}

 protected:
  CommError(const std::string& what, ExitCode code) : Error(what, code) {}
};

// Another rank did not arrive in time.
class HangError : public CommError {
 public:
  explicit HangError(const std::string& what) : CommError(what, ExitCode::kHang) {}
};

// Throws Error naming the caller's file and line unless `ok`. For contracts between our own parts;
// what a user did wrong is an InputError with words of its own.
inline void require(bool ok, std::string_view what, Here at = {}) {
  if (!ok) [[unlikely]] {
    throw Error(std::string("internal: ") + std::string(what) + " (" + at.file + ":" +
                std::to_string(at.line) + ")");
  }
}

}  // namespace rwkv
