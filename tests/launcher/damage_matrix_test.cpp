// Every file of a checkpoint x everything that can happen to it, with the whole program: the fault
// is named, the checkpoint before is used, and the end is that of a run that nothing happened to.
#include <functional>
#include <map>

#include "core/base/hash.h"
#include "core/base/posix_file.h"
#include "tests/launcher/launcher_test_support.h"

namespace rwkv {
namespace {

using namespace test;
namespace fs = std::filesystem;

const std::vector<std::string> kFiles = {"index.h5", "index.xxh3", "rank-0.h5", "rank-1.h5"};

constexpr const char* kDamaged = "checkpoint step-6: ";

// A checkpoint, one before it, and one of a run with another seed.
struct Place {
  std::string here, before, elsewhere;
};

struct Accident {
  std::string name;
  std::function<void(const Place&, const std::string& file)> happen;
  bool foreign = false;    // what is there now is right elsewhere
  bool hits_both = false;  // the checkpoint before, too
};

std::string step(const std::string& run, int64_t n) {
  return run + "/checkpoints/step-" + std::to_string(n);
}

void change(const std::string& path, const std::function<void(std::string&)>& how) {
  std::string content = read_file(path);
  how(content);
  replace_file(path, content);
}

void flip(char& byte) { byte = static_cast<char>(byte ^ 4); }

void exchange(const std::string& one, const std::string& two) {
  fs::rename(one, one + ".here");
  fs::rename(two, one);
  fs::rename(one + ".here", two);
}

std::vector<Accident> accidents() {
  const auto on_content = [](void (*how)(std::string&)) {
    return [how](const Place& place, const std::string& name) {
      change(place.here + "/" + name, how);
    };
  };
  return {
      {"missing", [](auto& place, auto& name) { fs::remove(place.here + "/" + name); }},
      {"empty", on_content([](std::string& content) { content.clear(); })},
      {"cut", on_content([](std::string& content) { content.resize(content.size() * 2 / 3); })},
      {"flipped", on_content([](std::string& content) { flip(content[content.size() / 2]); })},
      {"flipped at its end", on_content([](std::string& content) { flip(content.back()); })},
      {"another run's",
       [](auto& place, auto& name) {
         replace_file(place.here + "/" + name, read_file(place.elsewhere + "/" + name));
       },
       true},
      {"exchanged with the one before",
       [](auto& place, auto& name) {
         exchange(place.here + "/" + name, place.before + "/" + name);
       },
       true, true},
  };
}

// Path within the folder -> content; folders have an empty one.
std::map<std::string, std::string> all_of(const std::string& folder) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string path = entry.path();
    all[path.substr(folder.size())] = entry.is_directory() ? "" : read_file(path);
  }
  return all;
}

std::vector<std::string> lines_with(const std::string& text, const std::string& start) {
  std::vector<std::string> found;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (text.compare(begin, start.size(), start) == 0) {
      found.push_back(text.substr(begin, end - begin));
    }
    begin = end + 1;
  }
  return found;
}

// A hash of another index.h5 may as well be the right one of an index.h5 that was changed.
std::string named(const std::string& name, const Accident& accident) {
  return accident.foreign && name == "index.xxh3" ? "index.h5: " : name + ": ";
}

class DamageMatrix : public SmallRun {
 protected:
  // "whole" is the run that nothing happened to; copies of it are damaged.
  void SetUp() override {
    SmallRun::SetUp();
    for (const char* run : {"whole", "other run.seed=2"}) {
      const Ended ended = mpi(2, std::string("small.yaml checkpoint.every=2 run.dir=") + run);
      ASSERT_EQ(ended.code, 0) << ended.err;
    }
    wanted_ = newest("whole").weights_hash;
    text_ = loss_text("whole");
  }

  Place place(const std::string& run, int64_t n) const {
    return {step(run, n), step(run, n - 2), step(file("other"), n)};
  }

  // A fresh copy, named "r".
  std::string copy() const {
    fs::remove_all(file("r"));
    fs::copy(file("whole"), file("r"), fs::copy_options::recursive);
    return file("r");
  }

  // What the rows say of the mathematics, as text.
  std::string loss_text(const std::string& run) const {
    std::string text;
    for (const std::string& row :
         lines_with(read_file(file(run + "/metrics.jsonl")), "{\"step\"")) {
      text += row.substr(0, row.find(",\"seconds\"")) + "\n";
    }
    return text;
  }

  Ended restart(int ranks) const {
    const std::string arguments = "small.yaml run.dir=r checkpoint.every=2";
    return ranks == 1 ? program(arguments) : mpi(ranks, arguments);
  }

  // verify says `faults` faults, a restart says the same and takes the newest good one, and it ends
  // as the whole run did. Returns the line of step-6.
  std::string expect_fallback(int ranks, size_t faults) const {
    const Ended verified = program("verify r");
    EXPECT_EQ(verified.code, 88) << verified.out;
    EXPECT_EQ(verified.err, "");
    const Ended ended = restart(ranks);
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_EQ(ended.err, "");
    const std::vector<std::string> said = lines_with(ended.out, "checkpoint ");
    EXPECT_EQ(said.size(), faults) << ended.out;
    for (const std::string& line : said) {
      EXPECT_EQ(lines_with(verified.out, line.substr(11)).size(), 1u) << line << verified.out;
    }
    const std::string used = std::to_string(6 - 2 * faults);
    EXPECT_TRUE(has(ended.out, "checkpoints/step-" + used + " · step " + used + "\n")) << ended.out;
    EXPECT_EQ(newest("r").step, 6);
    EXPECT_EQ(newest("r").weights_hash, wanted_);
    EXPECT_EQ(loss_text("r"), text_);
    const Ended after = program("verify r");
    EXPECT_EQ(after.code, 0) << after.out;
    return said.empty() ? "" : said[0];
  }

  uint64_t wanted_ = 0;
  std::string text_;
};

TEST_F(DamageMatrix, EveryFileAndEveryAccident) {
  for (const Accident& accident : accidents()) {
    for (const std::string& name : kFiles) {
      SCOPED_TRACE(name + " " + accident.name);
      accident.happen(place(copy(), 6), name);
      const std::string line = expect_fallback(1, accident.hits_both ? 2 : 1);
      EXPECT_TRUE(line.starts_with(kDamaged + named(name, accident))) << line;
      if (accident.name == "missing") {
        EXPECT_EQ(line, kDamaged + name + ": missing");
      }
      EXPECT_TRUE(there(step("r", 6) + ".damaged"));
    }
  }
}

// Each rank looks at other files, or at none; all must hear of it and end with the same bits.
TEST_F(DamageMatrix, OnSeveralRanks) {
  const std::vector<Accident> all = accidents();
  const struct {
    int ranks;
    size_t accident, file;
  } cases[] = {{2, 3, 0}, {3, 2, 1}, {2, 0, 2}, {3, 3, 3}, {2, 6, 3}, {3, 5, 2}};
  for (const auto& [ranks, accident, name] : cases) {
    SCOPED_TRACE(kFiles[name] + " " + all[accident].name + ", ranks " + std::to_string(ranks));
    all[accident].happen(place(copy(), 6), kFiles[name]);
    const std::string line = expect_fallback(ranks, all[accident].hits_both ? 2 : 1);
    EXPECT_TRUE(line.starts_with(kDamaged + named(kFiles[name], all[accident]))) << line;
  }
}

TEST_F(DamageMatrix, AFolderThatIsGone) {
  const std::string missing = std::string(kDamaged) + "missing, though `latest` names it";
  for (const char* to :
       {"", "/checkpoints/kept", "/checkpoints/step-6.old", "/checkpoints/step-06"}) {
    for (int ranks : {1, 2}) {
      SCOPED_TRACE(std::string(to) + ", ranks " + std::to_string(ranks));
      const std::string run = copy();
      if (*to == '\0') {
        fs::remove_all(step(run, 6));
      } else {
        fs::rename(step(run, 6), run + to);
      }
      EXPECT_EQ(expect_fallback(ranks, 1), missing);
      EXPECT_TRUE(*to == '\0' || fs::exists(run + to + "/index.h5"));
    }
  }
  // Under the name of another step it is there, but not what it says.
  fs::rename(step(copy(), 6), step(file("r"), 8));
  const Ended ended = restart(1);
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_TRUE(ended.out.starts_with("checkpoint step-8: index.h5: is of step 6\n")) << ended.out;
  EXPECT_EQ(newest("r").weights_hash, wanted_);
}

// Nothing of a run is in `latest` that is not elsewhere too.
TEST_F(DamageMatrix, LatestIsNoLoss) {
  const std::vector<std::pair<std::string, std::function<void(const std::string&)>>> cases = {
      {"missing", [](auto& latest) { fs::remove(latest); }},
      {"empty", [](auto& latest) { replace_file(latest, ""); }},
      {"cut", [](auto& latest) { replace_file(latest, "step-"); }},
      {"of before", [](auto& latest) { replace_file(latest, "step-4\n"); }},
      {"not a step", [](auto& latest) { replace_file(latest, std::string("\0\xff/../\n", 7)); }},
      {"a folder", [](auto& latest) { fs::remove(latest), fs::create_directory(latest); }}};
  for (const auto& [name, happen] : cases) {
    SCOPED_TRACE(name);
    happen(copy() + "/checkpoints/latest");
    EXPECT_EQ(program("verify r").code, 0);
    const Ended ended = restart(1);
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_TRUE(ended.out.ends_with("step-6 is finished (6 steps): nothing to do\n")) << ended.out;
    EXPECT_EQ(newest("r").weights_hash, wanted_);
  }
}

TEST_F(DamageMatrix, WithoutAnyGoodOneNothingIsTouched) {
  const auto expect_untouched = [&](int ranks, const std::string& fault) {
    const auto before = all_of(file("r"));
    const Ended verified = program("verify r");
    EXPECT_EQ(verified.code, 88);
    EXPECT_FALSE(has(verified.out, "good")) << verified.out;
    expect_refused(restart(ranks), {"r/checkpoints: " + fault, "run.resume=never"});
    EXPECT_EQ(all_of(file("r")), before);
  };
  const std::vector<Accident> all = accidents();
  for (size_t i = 0; i < kFiles.size(); ++i) {
    SCOPED_TRACE(kFiles[i]);
    const std::string run = copy();
    for (int64_t n : {2, 4, 6}) {
      // Another accident and another file in each.
      const size_t k = i + static_cast<size_t>(n / 2);
      all[k % 5].happen(place(run, n), kFiles[k % kFiles.size()]);
    }
    expect_untouched(i % 2 == 0 ? 1 : 2, kDamaged + kFiles[(i + 3) % kFiles.size()]);
  }
  // All folders gone, and only `latest` tells of them.
  for (int64_t n : {2, 4, 6}) fs::remove_all(step(n == 2 ? copy() : file("r"), n));
  expect_untouched(1, std::string(kDamaged) + "missing");
  // A run that is to start anew keeps what is left.
  EXPECT_EQ(program("small.yaml run.dir=r run.resume=never train.stop_at=2").code, 85);
  EXPECT_EQ(read_file(file("r/before-1/checkpoints/latest")), "step-6\n");
  EXPECT_TRUE(there("r/before-1/metrics.jsonl"));
}

}  // namespace
}  // namespace rwkv
