// Where samples come from. A sample is context + 1 tokens; its first `context` are inputs, its last
// `context` are targets.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/recipe.h"

namespace rwkv {

// What a sample holds beside its tokens. Spans of length context, aligned with the targets.
struct SampleView {
  std::span<int32_t> tokens;  // context + 1
  std::span<float> weight;    // weight of each target in the loss; sources fill 1 or 0
  // Grading (generators only; kUngraded elsewhere): which question a target belongs to, counted
  // from 0 within the sample, and which skill the question tests. All targets of a question must be
  // predicted (argmax) for it to count as answered.
  std::span<int32_t> question;  // kUngraded, or the question's index
  std::span<int32_t> skill;     // index into SampleSource::skills()
  // Of length context, aligned with the inputs, or empty (not wanted): 1 where a document starts
  // at this token, else 0. Of generators, whose samples are one document each, all 0.
  std::span<int32_t> starts = {};
};
inline constexpr int32_t kUngraded = -1;

// Reads or makes sample `index`, always the same for the same index. const and thread-safe.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  // Number of samples; generators have no end and return INT64_MAX.
  virtual int64_t size() const = 0;
  // Tokens that the samples are cut from; as size() where there is no end or no stream of tokens.
  virtual int64_t tokens() const { return size(); }
  // Fills the views. Returns the sum over its targets of -ln P(target | what came before) under the
  // true distribution, in nats, when the source knows it (generators); NaN otherwise.
  virtual double read(int64_t index, const SampleView&) const = 0;
  virtual std::vector<std::string> skills() const { return {}; }
  // Chance level of each skill, in the order of skills().
  virtual std::vector<double> chance() const { return {}; }
  // One line for the banner: "skills mix (generated, seed 1)", "text corpus.txt, 1,234,567 tokens".
  virtual std::string describe() const = 0;
  // A prompt for the sample of text at the end of a run; empty: start from token 0.
  virtual std::string prompt() const { return ""; }
};

// Which samples a step takes: sample number for (step, slot of the batch). Pure; independent of
// ranks.
class Sampler {
 public:
  virtual ~Sampler() = default;
  virtual int64_t sample(int64_t step, int64_t slot) const = 0;
};

// Training source of a recipe. `vocab`: every token read must be below it, else InputError naming
// the file, the position and the token.
std::unique_ptr<SampleSource> make_train_source(const Recipe&, int64_t vocab);
// Held-out samples: generators with seed + 1, files by data.validation; nullptr when there are
// none.
std::unique_ptr<SampleSource> make_validation_source(const Recipe&, int64_t vocab);
// The samples of data.path in order, each once, for `eval`. Generators: their held-out samples.
std::unique_ptr<SampleSource> make_eval_source(const Recipe&, int64_t vocab);
std::unique_ptr<Sampler> make_sampler(const Recipe&, const SampleSource&);

}  // namespace rwkv
