// Training, evaluation, generation and checkpoints where the host cannot touch the backend's
// tensors: the same bits as where it can, and no touch (which would end the process).
#include <gtest/gtest.h>

#include <filesystem>
#include <mutex>

#include "core/io/checkpoint.h"
#include "core/train/text_generator.h"
#include "tests/core/train/train_test_support.h"
#include "tests/support/walled_backend.h"
#include "tests/support/walled_memory.h"

namespace rwkv {
namespace {

using namespace test;

struct WalledOutcome {
  std::vector<double> losses, norms;
  uint64_t hash = 0;
  double held_out = 0;
  std::string text;
};

WalledOutcome run(const Recipe& recipe, int ranks, bool walled) {
  WalledOutcome outcome;
  std::mutex mutex;
  run_local(ranks, [&](Communicator& comm) {
    Machine machine = one_thread(recipe);
    if (walled) machine.ops = &walled_backend();
    Trainer trainer(recipe, machine, comm);
    WalledOutcome own;
    for (int64_t step = 0; step < 3; ++step) {
      StepRow row;
      trainer.train_step(step, row);
      own.losses.push_back(row.loss);
      own.norms.push_back(row.grad_norm);
    }
    own.held_out = trainer.evaluate()->mean_loss();
    own.hash = trainer.store().hash();
    const auto tokenizer = make_tokenizer("bytes");
    const std::vector<int32_t> prompt = {0, 65, 66};
    own.text = generate_text(trainer.pass(), trainer.model(), trainer.store(), trainer.precision(),
                             *tokenizer, prompt, {.tokens = 8, .temperature = 1, .seed = 1}, comm);
    const std::lock_guard lock(mutex);
    if (comm.rank() == 0) outcome = own;
  });
  return outcome;
}

struct Case {
  std::string name;
  int ranks;
  std::vector<std::string> overrides;
};

class DeviceMemory : public testing::TestWithParam<Case> {};

TEST_P(DeviceMemory, SameBitsAsOnTheHost) {
  std::vector<std::string> overrides = GetParam().overrides;
  overrides.insert(overrides.end(), {"eval.every=1", "eval.batches=1"});
  const Recipe recipe = small_recipe(overrides);
  const WalledOutcome want = run(recipe, GetParam().ranks, false);
  const WalledOutcome got = run(recipe, GetParam().ranks, true);
  EXPECT_EQ(got.losses, want.losses);
  EXPECT_EQ(got.norms, want.norms);
  EXPECT_EQ(got.hash, want.hash);
  EXPECT_EQ(got.held_out, want.held_out);
  EXPECT_EQ(got.text, want.text);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, DeviceMemory,
    testing::Values(
        Case{"one_rank", 1, {"precision=fp32"}},
        Case{"bf16_fast", 1, {"precision=bf16", "parallel.reduction=fast"}},
        Case{"micro_batches_recompute",
             1,
             {"precision=fp32", "train.micro_batch=2", "train.recompute=block"}},
        Case{"groups_one_rank",
             1,
             {"precision=fp32", "parallel.leaf=8", "train.chunk=8", "parallel.tile=8"}},
        Case{"groups_stash_sqrt",
             1,
             {"precision=fp32", "train.chunk=4", "parallel.reduction=fast", "train.stash=sqrt"}},
        Case{"groups_stash_host",
             1,
             {"precision=fp32", "train.chunk=4", "parallel.reduction=fast", "train.stash=host"}},
        Case{"sequence_stash_host",
             2,
             {"precision=fp32", "parallel.sequence=2", "train.chunk=8", "parallel.leaf=8",
              "train.stash=host"}},
        Case{"sequence_gather",
             3,
             {"precision=fp32", "parallel.sequence=3", "parallel.leaf=8", "parallel.tile=8"}},
        Case{"sequence_ring_groups",
             2,
             {"precision=fp32", "parallel.sequence=2", "train.chunk=8", "parallel.leaf=8",
              "parallel.exchange=ring"}},
        Case{"overlap",
             2,
             {"precision=fp32", "parallel.sequence=2", "train.overlap=3",
              "parallel.reduction=fast"}},
        Case{"data_and_shard", 2, {"precision=fp32", "parallel.shard=optimizer"}}),
    [](const auto& tested) { return tested.param.name; });

TEST(DeviceStore, AStashOnTheHostTakesOneSlotOfTheDevice) {
  const auto stash_bytes = [](const char* where, const Backend& ops) {
    const Recipe recipe =
        small_recipe({"precision=fp32", "train.chunk=4", "parallel.reduction=fast",
                      std::string("train.stash=") + where});
    Machine machine = one_thread(recipe);
    machine.ops = &ops;
    const auto self = make_self();
    int64_t bytes = 0;
    for (const Arena::Entry& entry : Trainer(recipe, machine, *self).memory()) {
      if (entry.name == "stash") bytes += entry.bytes;
    }
    return bytes;
  };
  const int64_t all = stash_bytes("all", walled_backend());
  EXPECT_GT(all, 0);
  const int64_t groups = small_recipe({}).train.context / 4;
  EXPECT_EQ(stash_bytes("host", walled_backend()) * groups, all);
  EXPECT_EQ(stash_bytes("host", cpu_backend()), all);  // where it is anyway
}

TEST(DeviceStore, WhatDoesNotFitIsRefusedWithThePlan) {
  const Recipe recipe = small_recipe({"precision=fp32"});
  Machine machine = one_thread(recipe);
  machine.ops = &walled_backend();
  const auto self = make_self();
  set_walled_available(100000);
  try {
    const Trainer trainer(recipe, machine, *self);
    ADD_FAILURE() << "100 kB were enough";
  } catch (const InputError& error) {
    const std::string what = error.what();
    for (const char* part : {"before step 1", "train.micro_batch", "AdamW moments", "scratch"}) {
      EXPECT_NE(what.find(part), std::string::npos) << part << " in: " << what;
    }
  }
  set_walled_available(-1);
}

TEST(DeviceStore, CheckpointsHoldTheSameAndLoad) {
  const Recipe recipe = small_recipe({"precision=fp32"});
  const std::string folder = testing::TempDir() + "/device_checkpoints";
  std::filesystem::remove_all(folder);
  const auto self = make_self();
  Machine machine = one_thread(recipe);
  machine.ops = &walled_backend();
  Trainer trainer(recipe, machine, *self);
  StepRow row;
  trainer.train_step(0, row);
  CheckpointInfo info;
  info.step = 1;
  info.run_id = "0";
  info.weights_hash = trainer.store().hash();
  save_checkpoint(folder, info, trainer.store(), 3, *self);

  ParamStore on_host(trainer.model().params(), machine.precision, true, trainer.store().exact());
  load_checkpoint(folder + "/step-1", on_host, true);
  EXPECT_EQ(on_host.hash(), info.weights_hash);
  ParamStore on_device(trainer.model().params(), machine.precision, true, trainer.store().exact(),
                       {}, *machine.ops->memory);
  load_checkpoint(folder + "/step-1", on_device, true);
  EXPECT_EQ(on_device.hash(), info.weights_hash);
  Buffer room;
  for (size_t i = 0; i < on_host.size(); ++i) {
    const auto moments = on_host.moment2(i);
    const ConstTensor same = rwkv::on_host(on_device.memory(), {}, on_device.moment2(i), room);
    EXPECT_EQ(doubles(same), doubles(moments)) << on_host.specs()[i].name;
  }
}

}  // namespace
}  // namespace rwkv
