// Every source of the project against every rule, and every rule against planted violations.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "tests/structure/project_files.h"
#include "tests/structure/source_rules.h"

namespace rwkv::structure {
namespace {

using Rule = Violations (*)(std::string_view path, const std::string& text);

void expect_kept(Rule rule, const std::vector<std::string>& folders) {
  const std::vector<std::string> sources = sources_in(folders);
  ASSERT_NE(std::find(sources.begin(), sources.end(), "core/base/error.h"), sources.end());
  for (const std::string& path : sources) {
    for (const std::string& violation : rule(path, project_text(path))) {
      ADD_FAILURE() << violation;
    }
  }
}

const std::vector<std::string> kProgram = {"core", "kernels", "parallel", "launcher"};
const std::vector<std::string> kEverything = {"core",     "kernels", "parallel",
                                              "launcher", "bench",   "tests"};

bool broken(Rule rule, std::string_view path, const std::string& text) {
  return !rule(path, text).empty();
}

TEST(Sources, IncludeFromLeftToRight) { expect_kept(include_direction, kProgram); }
TEST(Sources, KeepOtherLibrariesWithTheirOwners) { expect_kept(third_party_headers, kProgram); }
TEST(Sources, EndTheProcessInMainAlone) { expect_kept(process_exits, kProgram); }
TEST(Sources, HaveNoMacrosInHeaders) { expect_kept(preprocessor_in_header, kProgram); }
TEST(Sources, HaveNoUsingNamespaceInHeaders) {
  expect_kept(using_namespace_in_header, kEverything);
}
TEST(Sources, AreShort) { expect_kept(file_length, kEverything); }
TEST(Sources, AreFinished) { expect_kept(unfinished_marks, kEverything); }

bool includes_allowed(std::string_view path, const std::string& included) {
  return !broken(include_direction, path, "#include \"" + included + "\"\n");
}

TEST(IncludeDirection, GoesLeftToRight) {
  EXPECT_TRUE(includes_allowed("core/base/rng.h", "core/base/hash.h"));
  EXPECT_TRUE(includes_allowed("core/config/load.cpp", "core/base/error.h"));
  EXPECT_TRUE(includes_allowed("launcher/main.cpp", "core/train/trainer.h"));
  EXPECT_TRUE(includes_allowed("core/model/model.h", "parallel/communicator.h"));
  EXPECT_TRUE(includes_allowed("core/train/trainer.cpp", "core/io/checkpoint.h"));
  EXPECT_TRUE(includes_allowed("launcher/slurm/probe.cpp", "launcher/commands.h"));

  EXPECT_FALSE(includes_allowed("core/base/rng.h", "core/config/recipe.h"));
  EXPECT_FALSE(includes_allowed("core/plan/mesh.cpp", "kernels/backend.h"));
  EXPECT_FALSE(includes_allowed("kernels/backend.h", "parallel/communicator.h"));
  EXPECT_FALSE(includes_allowed("parallel/mesh.cpp", "core/model/block.h"));
  EXPECT_FALSE(includes_allowed("core/data/source.h", "core/train/trainer.h"));
  EXPECT_FALSE(includes_allowed("core/train/trainer.h", "launcher/commands.h"));
}

TEST(IncludeDirection, KeepsDataAndFilesApart) {
  EXPECT_FALSE(includes_allowed("core/data/source.cpp", "core/io/hdf5_file.h"));
  EXPECT_FALSE(includes_allowed("core/io/checkpoint.cpp", "core/data/source.h"));
}

TEST(IncludeDirection, ReachesBackendsByTheirTable) {
  EXPECT_TRUE(includes_allowed("kernels/backend.cpp", "kernels/cpu/dispatch.h"));
  EXPECT_TRUE(includes_allowed("kernels/cpu/isa/ops.cpp", "kernels/cpu/isa/wkv7.h"));
  EXPECT_TRUE(includes_allowed("kernels/cpu/matmul.cpp", "kernels/matmul.h"));
  EXPECT_TRUE(includes_allowed("kernels/cpu/dispatch.cpp", "kernels/reference/wkv7.h"));

  EXPECT_FALSE(includes_allowed("kernels/backend.h", "kernels/cpu/dispatch.h"));
  EXPECT_FALSE(includes_allowed("kernels/reference/wkv7.h", "kernels/cpu/matmul.h"));
  EXPECT_FALSE(includes_allowed("kernels/cuda/wkv7.cu", "kernels/cpu/matmul.h"));
  EXPECT_FALSE(includes_allowed("core/model/model.cpp", "kernels/cpu/matmul.h"));
  EXPECT_FALSE(includes_allowed("core/model/model.cpp", "kernels/reference/wkv7.h"));
}

TEST(IncludeDirection, NamesOurHeadersFromTheRootInQuotes) {
  EXPECT_FALSE(includes_allowed("core/base/rng.h", "hash.h"));
  EXPECT_FALSE(includes_allowed("core/base/rng.h", "../base/hash.h"));
  EXPECT_TRUE(broken(include_direction, "core/base/rng.h", "#include <core/base/hash.h>\n"));
  EXPECT_FALSE(broken(include_direction, "core/base/rng.h", "#include <vector>\n"));
  EXPECT_TRUE(broken(include_direction, "core/odd/new.h", ""));
}

TEST(IncludeDirection, ReadsCodeAndNotComments) {
  const std::string path = "core/base/rng.h";
  EXPECT_FALSE(broken(include_direction, path, "// #include \"launcher/x.h\"\n"));
  EXPECT_FALSE(broken(include_direction, path, "/*\n#include \"launcher/x.h\"\n*/\n"));
  const Violations found =
      include_direction(path, "/* a\n b */\n  #  include \"launcher/x.h\"  // c\n");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0], "core/base/rng.h:3: core/base/ may not include launcher/x.h");
}

TEST(ThirdPartyHeaders, StandInTheirOwnersSources) {
  const Rule rule = third_party_headers;
  EXPECT_FALSE(broken(rule, "parallel/mpi_communicator.cpp", "#include <mpi.h>\n"));
  EXPECT_FALSE(broken(rule, "core/io/hdf5_file.cpp", "#include <hdf5.h>\n"));
  EXPECT_FALSE(broken(rule, "core/config/yaml.cpp", "#include <yaml-cpp/parser.h>\n"));
  EXPECT_FALSE(broken(rule, "kernels/cuda/wkv7.cu", "#include <cuda_runtime.h>\n"));
  EXPECT_FALSE(broken(rule, "core/train/metrics.cpp", "#include <nlohmann/json.hpp>\n"));

  EXPECT_FALSE(broken(rule, "launcher/command.h", "#include <CLI/CLI.hpp>\n"));
  EXPECT_FALSE(broken(rule, "kernels/cuda/mma.cuh", "#include <cuda_bf16.h>\n"));

  EXPECT_TRUE(broken(rule, "launcher/main.cpp", "#include <mpi.h>\n"));
  EXPECT_TRUE(broken(rule, "core/train/trainer.cpp", "#include <CLI/CLI.hpp>\n"));
  EXPECT_TRUE(broken(rule, "parallel/communicator.h", "#include <mpi.h>\n"));
  EXPECT_TRUE(broken(rule, "core/io/hdf5_file.h", "#include <hdf5.h>\n"));
  EXPECT_TRUE(broken(rule, "core/train/trainer.cpp", "#include \"hdf5.h\"\n"));
  EXPECT_TRUE(broken(rule, "core/config/recipe.h", "#include <yaml-cpp/yaml.h>\n"));
  EXPECT_TRUE(broken(rule, "core/base/stream.cpp", "#include <cuda_runtime.h>\n"));
  EXPECT_TRUE(broken(rule, "core/base/stream.cpp", "#include <nccl.h>\n"));
  EXPECT_TRUE(broken(rule, "core/train/metrics.h", "#include <nlohmann/json.hpp>\n"));
}

TEST(ProcessExits, AreForMainAndForACommunicatorsAbort) {
  const Rule rule = process_exits;
  EXPECT_FALSE(broken(rule, "launcher/main.cpp", "std::exit(code);"));
  EXPECT_FALSE(broken(rule, "parallel/mpi_communicator.cpp", "std::_Exit(code);"));
  EXPECT_FALSE(broken(rule, "core/base/a.cpp", "group.abort(86); on_exit(); job->exit();"));
  EXPECT_FALSE(broken(rule, "core/base/a.cpp", "// exit(1)\nf(\"exit(1)\", R\"x(\nexit(1))x\");"));

  EXPECT_TRUE(broken(rule, "parallel/mpi_communicator.cpp", "std::exit(code);"));
  EXPECT_TRUE(broken(rule, "parallel/watchdog.cpp", "std::_Exit(code);"));
  EXPECT_TRUE(broken(rule, "core/base/a.cpp", "exit(1);"));
  EXPECT_TRUE(broken(rule, "core/base/a.cpp", "  if (x) ::exit (1);"));
  EXPECT_TRUE(broken(rule, "core/base/a.cpp", "_exit(1);"));
  EXPECT_TRUE(broken(rule, "core/base/a.cpp", "std::abort();"));
  EXPECT_TRUE(broken(rule, "launcher/train.cpp", "n = 1'000; char c = '\"'; std::quick_exit(0);"));
}

TEST(PreprocessorInHeader, IsPragmaOnceAndIncludesOnly) {
  const Rule rule = preprocessor_in_header;
  const std::string once = "#pragma once\n";
  EXPECT_FALSE(broken(rule, "core/base/a.h", once + "#include <vector>\n// #define X\n"));
  EXPECT_FALSE(broken(rule, "core/base/a.cpp", "#ifdef X\n#endif\n#define Y\n"));
  EXPECT_FALSE(broken(rule, "kernels/cpu/isa/vec.h", once + "#if defined(__AVX2__)\n#endif\n"));
  EXPECT_FALSE(broken(rule, "kernels/cuda/mma.cuh", once + "#ifdef __CUDA_ARCH__\n#endif\n"));

  EXPECT_TRUE(broken(rule, "core/base/a.h", "#include <vector>\n"));
  EXPECT_TRUE(broken(rule, "core/base/a.h", "// #pragma once\n"));
  EXPECT_TRUE(broken(rule, "core/base/a.h", once + "#define X 1\n"));
  EXPECT_TRUE(broken(rule, "core/base/a.h", once + " # ifdef X\n"));
  EXPECT_TRUE(broken(rule, "kernels/cpu/isa/vec.h", once + "#define X 1\n"));
}

TEST(UsingNamespace, IsNotForHeaders) {
  EXPECT_FALSE(broken(using_namespace_in_header, "a.cpp", "using namespace std;"));
  EXPECT_FALSE(broken(using_namespace_in_header, "a.h", "// using namespace std;"));
  EXPECT_TRUE(broken(using_namespace_in_header, "a.h", "  using  namespace std;"));
}

TEST(FileLength, EndsAt450Lines) {
  std::string text;
  for (int i = 0; i < 450; ++i) text += "\n";
  EXPECT_FALSE(broken(file_length, "a.cpp", text));
  EXPECT_TRUE(broken(file_length, "a.cpp", text + "\n"));
}

TEST(UnfinishedMarks, AreFoundInComments) {
  EXPECT_TRUE(broken(unfinished_marks, "a.cpp",
                     "// TO"
                     "DO(me): later"));
  EXPECT_TRUE(broken(unfinished_marks, "a.cpp",
                     "/* FIX"
                     "ME */"));
  EXPECT_FALSE(broken(unfinished_marks, "a.cpp", "int MASTODON = 0;"));
}

}  // namespace
}  // namespace rwkv::structure
