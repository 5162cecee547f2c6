#include "core/data/source.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "core/base/error.h"
#include "core/data/generators.h"
#include "core/data/samplers.h"
#include "core/data/stream_source.h"
#include "core/data/token_stream.h"

namespace rwkv {
namespace {

std::shared_ptr<const TokenStream> open_stream(const Recipe& recipe, const std::string& path,
                                               int64_t vocab) {
  const DataConfig& data = recipe.data;
  if (data.source == "text") return open_text(path, data.tokenizer, vocab);
  if (data.source == "binidx") return open_binidx(path, vocab);
  throw InputError(fmt::format(
      "data.source: expected skills, reverse, needle, text or binidx, got '{}'", data.source));
}

// data.validation as a fraction; nothing when it is "none" or a path.
std::optional<double> validation_fraction(const Recipe& recipe) {
  const std::string& text = recipe.data.validation;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (!(value > 0 && value < 1)) {
    throw InputError(fmt::format(
        "data.validation: expected none, a path or a fraction above 0 and below 1, got '{}'",
        text));
  }
  return value;
}

std::unique_ptr<SampleSource> make_held_out_generator(const Recipe& recipe, int64_t vocab) {
  return make_generator(recipe.data.source, recipe.run.seed + 1, vocab);
}

}  // namespace

std::unique_ptr<SampleSource> make_train_source(const Recipe& recipe, int64_t vocab) {
  const DataConfig& data = recipe.data;
  if (is_generator(data.source)) return make_generator(data.source, recipe.run.seed, vocab);
  auto stream = open_stream(recipe, data.path, vocab);
  if (const auto fraction = validation_fraction(recipe)) {
    return StreamSource::split(stream, recipe.train.context, *fraction).train;
  }
  return std::make_unique<StreamSource>(std::move(stream), recipe.train.context);
}

std::unique_ptr<SampleSource> make_validation_source(const Recipe& recipe, int64_t vocab) {
  const DataConfig& data = recipe.data;
  if (is_generator(data.source)) return make_held_out_generator(recipe, vocab);
  if (data.validation == "none") return nullptr;
  if (const auto fraction = validation_fraction(recipe)) {
    auto stream = open_stream(recipe, data.path, vocab);
    return StreamSource::split(stream, recipe.train.context, *fraction).held_out;
  }
  return std::make_unique<StreamSource>(open_stream(recipe, data.validation, vocab),
                                        recipe.train.context);
}

std::unique_ptr<SampleSource> make_eval_source(const Recipe& recipe, int64_t vocab) {
  if (is_generator(recipe.data.source)) return make_held_out_generator(recipe, vocab);
  return std::make_unique<StreamSource>(open_stream(recipe, recipe.data.path, vocab),
                                        recipe.train.context);
}

std::unique_ptr<Sampler> make_sampler(const Recipe& recipe, const SampleSource& source) {
  const std::string& kind = recipe.data.sampler;
  const int64_t batch = recipe.train.batch, size = source.size();
  if (kind == "shuffle") return make_shuffle_sampler(batch, size, recipe.run.seed);
  if (kind == "sequential") return make_sequential_sampler(batch, size);
  if (kind == "rwkv_lm") {
    if (is_generator(recipe.data.source)) {
      throw InputError("data.sampler: rwkv_lm needs data.source text or binidx");
    }
    return make_rwkv_lm_sampler(batch, source.tokens(), recipe.train.context);
  }
  throw InputError(
      fmt::format("data.sampler: expected shuffle, sequential or rwkv_lm, got '{}'", kind));
}

}  // namespace rwkv
