#include "tests/support/process.h"

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/base/error.h"

namespace rwkv::test {
namespace {

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

constexpr const char* kMpiSettings =
    "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
    "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader ";

}  // namespace

TempFolder::TempFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "rwkv-test-XXXXXX").string();
  require(mkdtemp(name.data()) != nullptr, "a temporary folder");
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempFolder::write(const std::string& name, const std::string& content) const {
  std::ofstream(file(name), std::ios::binary) << content;
  return file(name);
}

Ended run_shell(const std::string& command, int seconds) {
  const TempFolder folder;
  const std::string script = folder.write("run.sh", command + "\n");
  const int status = std::system(("timeout -k 10 " + std::to_string(seconds) + " bash " + script +
                                  " >" + folder.file("out") + " 2>" + folder.file("err"))
                                     .c_str());
  Ended ended;
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  ended.out = slurp(folder.file("out"));
  ended.err = slurp(folder.file("err"));
  return ended;
}

Ended run_program(const std::string& folder, const std::string& arguments) {
  return run_shell("cd " + folder + " && exec " + RWKV_PROGRAM + " " + arguments);
}

std::string mpi_settings() { return kMpiSettings; }

Ended run_mpi(const std::string& folder, int ranks, const std::string& arguments) {
  return run_shell("cd " + folder + " && " + kMpiSettings + "exec mpirun -q -n " +
                   std::to_string(ranks) + " " + RWKV_PROGRAM + " " + arguments);
}

}  // namespace rwkv::test
