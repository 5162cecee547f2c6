// The recipe: plain structs. Types, defaults, ranges and documentation of every key stand in
// fields_*.cpp; load.h makes a Recipe of a file or a text. Members begin with the same defaults,
// for structs that are made without a file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rwkv {

struct RunConfig {
  std::string dir;  // absolute, or relative to the working directory
  uint64_t seed = 1;
  std::string resume = "auto";  // auto | never | PATH of a run folder or of a step-N
  std::string init_from;        // empty: none; .pth, .safetensors or a checkpoint
};

// Ranks of the low-rank MLPs. 0 = not given: shapes of init_from, else the formula.
struct LoraRanks {
  int64_t decay = 0, iclr = 0, value = 0, gate = 0;
  bool operator==(const LoraRanks&) const = default;
};

struct ModelConfig {
  int64_t layers = 0, width = 0;
  int64_t head_size = 64;  // 0 = not given, and weights are: theirs
  int64_t ffn_width = 0;   // 0 = not given: 4 * width
  int64_t vocab = 0;       // 0 = not given: the tokenizer's
  LoraRanks lora_rank;
  std::vector<std::string> blocks = {"rwkv7"};  // pattern, repeated over the layers
  std::string ffn = "channel_mix";
  std::string initial_state = "zero";
  std::string position = "none";
  double dropout = 0;
};

struct DataConfig {
  std::string source =
      "skills";      // skills | reverse | needle | mqar | parity | text | jsonl | binidx
  std::string path;  // resolved: absolute, or relative to the working directory
  std::string tokenizer = "bytes";  // bytes | world:PATH (PATH resolved like `path`)
  std::string sampler = "shuffle";  // shuffle | sequential | rwkv_lm
  bool reset_documents = false;
  std::string validation = "none";  // none | PATH (resolved) | fraction in (0, 1)
};

struct TrainConfig {
  int64_t context = 0;
  int64_t batch = 0;        // sequences a step, whole job
  int64_t micro_batch = 0;  // sequences a pass and rank; 0 = auto
  int64_t steps = 0;        // after loading always set, also when the recipe gives tokens
  int64_t tokens = 0;       // as given, or 0
  int64_t stop_at = 0;      // 0 = none; else checkpoint after that many updates and exit 85
  int64_t chunk = 0, overlap = 0;
  std::string gradient = "exact", handoff = "state", recompute = "none", stash = "all";
};

struct LossConfig {
  double l2wrap = 1e-4;
};

// Whether segments meet as one sequence does, so that their losses and gradients are the whole's to
// the bit under exact reduction.
inline bool keeps_sequence_whole(const TrainConfig& train) {
  return train.overlap == 0 && train.gradient == "exact" && train.handoff == "state";
}

struct OptimizerConfig {
  std::string kind = "adamw";
  double lr = 6e-4, lr_final = 6e-5;
  std::string schedule = "cosine";  // cosine | linear | constant
  int64_t warmup = 10;              // steps
  double beta1 = 0.9, beta2 = 0.99;
  double eps = 1e-18;
  double weight_decay = 0.1;
  double clip = 1.0;
};

struct ParallelConfig {
  std::string device = "auto";  // auto | cpu | cuda
  int64_t data = 0;             // 0 = auto
  int64_t sequence = 0;         // 0 = auto
  int64_t tensor = 1, pipeline = 1;
  std::string exchange = "auto";
  std::string reduction = "auto";  // auto | exact | fast
  int64_t leaf = 512, tile = 128;  // tokens
  std::string shard = "none";
  int64_t threads = 0;        // a rank; 0 = auto: cores / local ranks
  std::string link = "auto";  // auto | nccl | host
  bool share_gpu = false;
  std::string graphs = "auto";  // auto | on | off
  double timeout = 600;         // seconds
};

struct CheckpointConfig {
  int64_t every = 0;  // steps; 0 = at the end only
  int64_t keep = 3;
  bool async = true;
};

struct EvalConfig {
  int64_t every = 0;    // steps; 0 = at the end only where validation data exists
  int64_t batches = 0;  // 0 = all
};

struct LogConfig {
  int64_t every = 10;  // steps
};

struct Recipe {
  std::string name;  // the file's name without folder and extension
  RunConfig run;
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  LossConfig loss;
  OptimizerConfig optimizer;
  ParallelConfig parallel;
  std::string precision = "bf16";  // bf16 | fp32 | fp16 | fp64
  CheckpointConfig checkpoint;
  EvalConfig eval;
  LogConfig log;
};

}  // namespace rwkv
