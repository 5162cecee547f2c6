// Checkpoints that something happened to: every damage is found and named, the one before is used.
#include <algorithm>
#include <functional>
#include <mutex>

#include "core/base/hash.h"
#include "core/base/posix_file.h"
#include "core/base/rng.h"
#include "core/io/checkpoint_index.h"
#include "parallel/agree.h"
#include "tests/core/train/checkpoint_fixture.h"

namespace rwkv {
namespace {

class Damage : public TwoRuns {
 protected:
  // Step 4 is found damaged in `name` (a part of the message, empty: any), step 2 used; and where
  // step 2 is gone, that is said.
  void expect_fallback(const std::string& name) const {
    const ResumePoint point = resume();
    EXPECT_EQ(point.checkpoint, step(2));
    EXPECT_EQ(point.step, 2);
    ASSERT_EQ(point.faults.size(), 1u);
    EXPECT_EQ(point.damaged, std::vector<std::string>{step(4)});
    EXPECT_TRUE(point.faults[0].starts_with("checkpoint step-4: " + name)) << point.faults[0];
    EXPECT_EQ(point.faults[0].find('\n'), std::string::npos);
    fs::rename(step(2), in("elsewhere"));
    const std::string said = message_of<AgreedError>([&] { resume(); });
    EXPECT_TRUE(contains(said, point.faults[0])) << said;
    EXPECT_TRUE(contains(said, "run.resume=never")) << said;
    fs::rename(in("elsewhere"), step(2));
    // Whoever reads it as it stands is told the same.
    ParamStore store = make_store(recipe_of(in("a")));
    EXPECT_THROW(load_checkpoint(step(4), store, true), InputError) << name;
  }
};

const std::vector<std::string> kFiles = {"index.h5", "index.xxh3", "rank-0.h5", "rank-1.h5"};

// index.h5 and index.xxh3 vouch for each other: either may be named.
std::string named(const std::string& file) { return file.starts_with("index") ? "index." : file; }

TEST_F(Damage, GoodCheckpointsAreTakenNewestFirst) {
  const ResumePoint point = resume();
  EXPECT_EQ(point.checkpoint, step(4));
  EXPECT_EQ(point.tokens, 192);
  EXPECT_EQ(point.run_id, "a");
  EXPECT_TRUE(point.faults.empty());
  const CheckpointState state = verify_checkpoint(step(4));
  EXPECT_EQ(state.fault, "");
  EXPECT_EQ(state.files, 3);
  int64_t bytes = 0;
  for (const char* name : {"/index.h5", "/rank-0.h5", "/rank-1.h5"}) {
    bytes += static_cast<int64_t>(fs::file_size(step(4) + name));
  }
  EXPECT_EQ(state.bytes, bytes);
}

TEST_F(Damage, AMissingFileIsNamed) {
  for (const std::string& file : kFiles) {
    const std::string path = step(4) + "/" + file, content = read_file(path);
    fs::remove(path);
    expect_fallback(file + ": missing");
    overwrite(path, content);
  }
  EXPECT_EQ(resume().step, 4);  // and the damage was in the tests alone
}

TEST_F(Damage, AShortenedFileIsNamed) {
  for (const std::string& file : kFiles) {
    const std::string path = step(4) + "/" + file, content = read_file(path);
    for (size_t length : {size_t{0}, content.size() / 2, content.size() - 1}) {
      SCOPED_TRACE(file + " cut to " + std::to_string(length));
      fs::resize_file(path, length);
      expect_fallback(named(file));
      overwrite(path, content);
    }
    overwrite(path, content + "x");
    expect_fallback(named(file));
    overwrite(path, content);
  }
}

TEST_F(Damage, OneFlippedBitIsNamed) {
  for (const std::string& file : kFiles) {
    const std::string path = step(4) + "/" + file, content = read_file(path);
    const Philox random(1, file);
    for (uint64_t i = 0; i < 8; ++i) {
      std::string changed = content;
      const uint64_t bit = random.below(8 * content.size(), i);
      SCOPED_TRACE(file + " bit " + std::to_string(bit));
      changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << (bit % 8)));
      overwrite(path, changed);
      expect_fallback(named(file));
    }
    overwrite(path, content);
  }
}

TEST_F(Damage, AFileOfAnotherStepOrRunIsNamed) {
  for (const std::string& file : kFiles) {
    const std::string path = step(4) + "/" + file, content = read_file(path);
    for (const std::string& other : {step(2), step(4, "b")}) {
      SCOPED_TRACE(file + " of " + other);
      overwrite(path, read_file(other + "/" + file));
      expect_fallback(named(file));
    }
    overwrite(path, content);
  }
}

TEST_F(Damage, TheIndexOfAnotherStepIsNamedThoughItsHashFits) {
  for (const char* file : {"index.h5", "index.xxh3"}) {
    overwrite(step(4) + "/" + file, read_file(step(2) + "/" + file));
  }
  expect_fallback("index.h5: is of step 2");
}

// The last two have right hashes: as a writer with a mistake would leave it.
TEST_F(Damage, ARankFileSaysWhereItBelongs) {
  const CheckpointIndex good = read_index(step(4));
  const auto vouch_for = [&](const std::string& other) {
    const std::string path = step(4) + "/rank-1.h5";
    overwrite(path, read_file(other + "/rank-1.h5"));
    CheckpointIndex index = good;
    index.files[1] = digest_file(path);
    fs::remove(step(4) + "/index.h5");
    write_index(step(4), index);
  };
  vouch_for(step(2));
  expect_fallback("rank-1.h5: is of step 2");
  vouch_for(step(4, "b"));
  expect_fallback("rank-1.h5: is of another run");
}

TEST_F(Damage, AFolderWithoutAnythingIsNamed) {
  fs::create_directory(step(6));
  const ResumePoint point = resume();
  EXPECT_EQ(point.step, 4);
  EXPECT_EQ(point.faults, std::vector<std::string>{"checkpoint step-6: index.h5: missing"});
}

TEST_F(Damage, AllOlderOnesAreTried) {
  fs::remove(step(4) + "/rank-0.h5");
  fs::remove(step(2) + "/rank-1.h5");
  const std::string said = message_of<AgreedError>([&] { resume(); });
  EXPECT_TRUE(contains(said, "checkpoint step-4: rank-0.h5: missing")) << said;
  EXPECT_TRUE(contains(said, "nor any of the 1 before")) << said;
  fs::remove_all(step(4));
  EXPECT_THROW(resume(), AgreedError);
}

TEST_F(Damage, APathIsTakenAsItIsOrNotAtAll) {
  fs::remove(step(4) + "/rank-0.h5");
  for (const std::string& path : {in("a"), step(4)}) {
    Recipe recipe = recipe_of(in("fresh"));
    recipe.run.resume = path;
    const std::string said =
        message_of<AgreedError>([&] { find_resume_point(recipe, *make_self()); });
    EXPECT_TRUE(contains(said, "step-4: rank-0.h5: missing")) << said;
  }
  Recipe recipe = recipe_of(in("fresh"));
  recipe.run.resume = step(2);
  const ResumePoint point = find_resume_point(recipe, *make_self());
  EXPECT_EQ(point.step, 2);
  EXPECT_EQ(point.run_id, "");  // a run of its own begins
}

// Each rank checks a part of the files; what one of them finds, all hear.
TEST_F(Damage, RanksFallBackTogether) {
  for (const char* file : {"rank-0.h5", "rank-1.h5"}) {
    const std::string path = step(4) + "/" + file, content = read_file(path);
    fs::resize_file(path, content.size() - 1);
    for (int ranks : {2, 3}) {
      std::mutex mutex;
      int counted = 0;
      run_local(ranks, [&](Communicator& comm) {
        const ResumePoint point = find_resume_point(recipe_of(in("a")), comm);
        const std::lock_guard lock(mutex);
        counted += point.step == 2 && point.faults.size() == 1 &&
                   point.faults[0].starts_with(std::string("checkpoint step-4: ") + file);
      });
      EXPECT_EQ(counted, ranks) << file;
    }
    overwrite(path, content);
  }
}

TEST_F(Damage, ANewerFormatIsNotDamage) {
  const std::string path = step(4) + "/index.h5";
  fs::remove(path);
  Hdf5File file = Hdf5File::create(path);
  file.set_attribute("format_version", kCheckpointVersion + 1);
  file.close();
  overwrite(step(4) + "/index.xxh3", "XXH3 (index.h5) = " + to_hex(digest_file(path).hash) + "\n");
  for (const std::string& said : {message_of<AgreedError>([&] { resume(); }),
                                  message_of<InputError>([&] { verify_checkpoint(step(4)); }),
                                  message_of<InputError>([&] { read_checkpoint_info(step(4)); })}) {
    EXPECT_TRUE(contains(said, "checkpoint format 3 is newer than this program's 2")) << said;
  }
}

class Extents : public Damage {
 protected:
  // The fault of step 4 after `change` was made to its index, hash and all.
  std::string fault_after(const std::function<void(CheckpointIndex&)>& change) const {
    CheckpointIndex index = read_index(step(4));
    const std::string path = step(4) + "/index.h5";
    const std::string content = read_file(path), beside = read_file(step(4) + "/index.xxh3");
    change(index);
    fs::remove(path);
    write_index(step(4), index);
    const std::string fault = verify_checkpoint(step(4)).fault;
    overwrite(path, content);
    overwrite(step(4) + "/index.xxh3", beside);
    return fault;
  }
};

TEST_F(Extents, TileEveryParameter) {
  EXPECT_EQ(fault_after([](CheckpointIndex&) {}), "");
  const auto expect_fault = [&](const std::function<void(CheckpointIndex&)>& change,
                                const std::string& part) {
    const std::string fault = fault_after(change);
    EXPECT_TRUE(contains(fault, part)) << fault << ", wanted: " << part;
  };
  expect_fault([](auto& index) { index.extents[0].end -= 1; }, "end at element");
  expect_fault([](auto& index) { index.extents[0].begin += 1; }, "gap or overlap at element 0");
  expect_fault([](auto& index) { index.extents.pop_back(); }, "end at element");
  expect_fault([](auto& index) { index.extents.push_back(index.extents[0]); }, "gap or overlap");
  expect_fault([](auto& index) { index.extents[0].file = 2; }, "names a file or parameter");
  expect_fault([](auto& index) { index.extents[0].param = 999; }, "names a file or parameter");
  expect_fault(
      [](auto& index) {
        StoredExtent half = index.extents[0];
        half.begin = half.end / 2;
        index.extents[0].end = half.begin;
        index.extents.push_back(half);
      },
      "rank-0.h5 has two extents");
  expect_fault([](auto& index) { index.params[0].second = {1, 1}; }, "of 1");
  expect_fault([](auto& index) { index.params[1].first = index.params[0].first; }, "twice");
}

TEST_F(Extents, AreWhatTheFilesHold) {
  const auto fault = [&](const std::function<void(CheckpointIndex&)>& change) {
    return fault_after(change);
  };
  EXPECT_TRUE(contains(fault([](auto& i) { i.dtype = DType::kF64; }), "the index says f64"));
  EXPECT_TRUE(contains(fault([](auto& i) { i.moments = false; }), "unknown dataset moment1/"));
  EXPECT_TRUE(
      contains(fault([](auto& i) { i.params[0].first = "other"; }), "has no weights/other"));
  EXPECT_TRUE(contains(fault([](auto& i) { i.info.weights_hash ^= 1; }), "weights_hash"));
  const std::string shorter = fault([](CheckpointIndex& index) {
    StoredExtent& first = index.extents[0];
    first.end -= 1;
    index.params[first.param].second = {first.end};
  });
  EXPECT_TRUE(contains(shorter, "elements")) << shorter;
}

TEST_F(Extents, AreReadBackByAnyModelOfTheSameShape) {
  const Recipe recipe = recipe_of(in("a"));
  ParamStore wanted = make_store(recipe), read = make_store(recipe);
  fill(wanted, 4 + 'a');
  load_checkpoint(step(4), read, true);
  EXPECT_EQ(read.hash(), wanted.hash());
  for (size_t i = 0; i < read.size(); ++i) {
    for (auto moment : {&ParamStore::moment1, &ParamStore::moment2}) {
      const Tensor a = (read.*moment)(i), b = (wanted.*moment)(i);
      EXPECT_TRUE(std::equal(a.data, a.data + a.bytes(), b.data)) << read.specs()[i].name;
    }
  }
  CheckpointIndex index = read_index(step(4));
  index.info.weights_hash ^= 1;
  fs::remove(step(4) + "/index.h5");
  write_index(step(4), index);
  const std::string said = message_of<InputError>([&] { load_checkpoint(step(4), read, true); });
  EXPECT_TRUE(contains(said, "weights_hash")) << said;
}

}  // namespace
}  // namespace rwkv
