// Running the program as a user would.
#pragma once

#include <string>

namespace rwkv::test {

struct Ended {
  int code = 0;  // exit code; 128 + n after signal n
  std::string out, err;
};

// Runs a shell command with a limit of `seconds`; stdout and stderr are kept apart.
Ended run_shell(const std::string& command, int seconds = 120);

// The program with these arguments, in `folder`.
Ended run_program(const std::string& folder, const std::string& arguments);
// The same under mpirun on `ranks` ranks (as root and with more ranks than cores, where it must
// be).
Ended run_mpi(const std::string& folder, int ranks, const std::string& arguments);

// What run_mpi() sets in the environment: "NAME=VALUE NAME=VALUE ".
std::string mpi_settings();

// A fresh folder that goes with the object.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  // Writes a file and returns its path.
  std::string write(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

}  // namespace rwkv::test
