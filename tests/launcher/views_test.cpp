// Ranks whose files are not the same: each host has a view of its own of the file system.
#include "core/base/posix_file.h"
#include "tests/launcher/launcher_test_support.h"

namespace rwkv {
namespace {

using namespace test;

class Views : public SmallRun {
 protected:
  // Two ranks with the same command line but for one word each.
  Ended two(const std::string& arguments, const std::string& first, const std::string& second) {
    const std::string one = std::string("-n 1 ") + RWKV_PROGRAM + " " + arguments + " ";
    return run_shell("cd " + folder_.path() + " && " + mpi_settings() + "exec mpirun -q " + one +
                     first + " : " + one + second);
  }
};

TEST_F(Views, OtherWeightsAreNotMixed) {
  ASSERT_EQ(program("small.yaml run.dir=a").code, 0);
  ASSERT_EQ(program("small.yaml run.dir=b run.seed=2").code, 0);
  const Ended trained = two("small.yaml run.dir=c", "run.init_from=a", "run.init_from=b");
  expect_refused(trained, {"a: ranks have read different weights"});
  EXPECT_FALSE(there("c"));
  const Ended evaluated =
      run_shell("cd " + folder_.path() + " && " + mpi_settings() + "exec mpirun -q -n 1 " +
                RWKV_PROGRAM + " eval a : -n 1 " + RWKV_PROGRAM + " eval b");
  expect_refused(evaluated, {"a: ranks have read different weights"});
  const Ended continued = run_shell(
      "cd " + folder_.path() + " && " + mpi_settings() + "exec mpirun -q -n 1 " + RWKV_PROGRAM +
      " generate a --prompt x : -n 1 " + RWKV_PROGRAM + " generate b --prompt x");
  expect_refused(continued, {"a: ranks have read different weights"});
}

TEST_F(Views, DataOfOtherLengthIsNotMixed) {
  const std::string text = read_file(std::string(RWKV_SOURCE_DIR) + "/README.md");
  folder_.write("short.txt", text.substr(0, 4000));
  folder_.write("long.txt", text.substr(0, 4500));
  const std::string run = "small.yaml data.source=text run.dir=r";
  expect_refused(two(run, "data.path=short.txt", "data.path=long.txt"),
                 {"data.path: ranks see files of different length"});
  expect_refused(
      two(run + " data.path=long.txt", "data.validation=long.txt", "data.validation=short.txt"),
      {"data.validation: ranks see files of different length"});
  EXPECT_FALSE(there("r"));
}

}  // namespace
}  // namespace rwkv
