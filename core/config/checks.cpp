#include "core/config/checks.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "core/config/value.h"

namespace rwkv {
namespace {

// Places a message at `first`, or at `second` when only that one is given.
[[noreturn]] void conflict(const GivenKeys& given, std::string_view first, std::string_view second,
                           const std::string& what) {
  const std::array<std::string_view, 2> keys{first, second};
  given.fail(keys, what);
}

void check_features(const GivenKeys& given) {
  for (const Field& field : recipe_fields()) {
    const GivenKeys::Entry* entry = given.find(field.name);
    if (entry == nullptr) continue;
    const std::string missing = describe_missing(field, entry->value);
    if (!missing.empty()) given.fail(field.name, missing);
  }
}

void check_model(const GivenKeys& given, const ModelConfig& model) {
  if (model.head_size > 0 && model.width % model.head_size != 0) {
    const int64_t below = model.width - model.width % model.head_size;
    conflict(given, "model.width", "model.head_size",
             fmt::format("width {} is not a multiple of model.head_size {} (model.width {}{} is)",
                         model.width, model.head_size,
                         below > 0 ? fmt::format("{} or ", below) : "", below + model.head_size));
  }
}

void check_data(const GivenKeys& given, const DataConfig& data) {
  const bool file = data.source == "text" || data.source == "jsonl" || data.source == "binidx";
  if (file && data.path.empty()) {
    conflict(given, "data.source", "data.path",
             fmt::format("data.source {} needs data.path", data.source));
  }
  if (file) return;
  if (!data.path.empty()) {
    conflict(given, "data.path", "data.source",
             fmt::format("data.source {} is generated: data.path must be none", data.source));
  }
  if (data.sampler == "rwkv_lm") {
    conflict(
        given, "data.sampler", "data.source",
        fmt::format("data.sampler rwkv_lm needs data.source text or binidx, not {}", data.source));
  }
  if (data.validation != "none") {
    conflict(given, "data.validation", "data.source",
             fmt::format("data.source {} makes its own held-out samples: data.validation must be "
                         "none",
                         data.source));
  }
}

// Counters of tokens must fit 64 bits with room to spare.
void check_size(const GivenKeys& given, const TrainConfig& train) {
  constexpr int64_t kMostTokens = int64_t{1} << 62;
  if (train.steps == 0 || train.batch == 0 || train.context == 0) return;
  if (train.steps > kMostTokens / (train.batch * train.context)) {
    conflict(given, "train.steps", "train.tokens",
             "train.steps * train.batch * train.context must be at most 2^62");
  }
}

void check_train(const GivenKeys& given, const TrainConfig& train) {
  check_size(given, train);
  if (train.steps > 0 && train.stop_at > train.steps) {
    conflict(given, "train.stop_at", "train.steps",
             fmt::format("train.stop_at {} is above train.steps {}", train.stop_at, train.steps));
  }
}

// What edges of segments are asked to be, and what the promise of equal bits needs.
void check_sequence(const GivenKeys& given, const Recipe& recipe) {
  const TrainConfig& train = recipe.train;
  if (train.gradient == "truncated" && train.chunk == 0) {
    conflict(given, "train.gradient", "train.chunk",
             "train.gradient truncated needs a train.chunk: the gradient is cut at its multiples");
  }
  if (train.handoff == "none" && train.chunk == 0) {
    conflict(given, "train.handoff", "train.chunk",
             "train.handoff none needs a train.chunk: segments start anew at its multiples");
  }
  if (train.chunk > 0 && train.overlap > train.chunk) {
    conflict(
        given, "train.overlap", "train.chunk",
        fmt::format("train.overlap {} is longer than train.chunk {}", train.overlap, train.chunk));
  }
  const bool whole = keeps_sequence_whole(train);
  if (recipe.parallel.reduction == "exact" && !whole) {
    conflict(given, "parallel.reduction", "train.overlap",
             "parallel.reduction exact needs train.overlap 0, train.gradient exact and "
             "train.handoff state (leave it out, or fast)");
  }
  const int64_t leaf = recipe.parallel.leaf;
  if (whole && recipe.parallel.reduction != "fast" && train.chunk % leaf != 0) {
    const int64_t below = train.chunk / leaf * leaf;
    conflict(given, "train.chunk", "parallel.leaf",
             fmt::format("train.chunk {}: parallel.reduction exact needs a multiple of "
                         "parallel.leaf ({}): {}{}",
                         train.chunk, leaf, below > 0 ? fmt::format("{} or ", below) : "",
                         below + leaf));
  }
}

void check_optimizer(const GivenKeys& given, const OptimizerConfig& optimizer) {
  if (optimizer.schedule != "constant" && optimizer.lr_final > optimizer.lr) {
    conflict(given, "optimizer.lr_final", "optimizer.lr",
             fmt::format("optimizer.lr_final {} is above optimizer.lr {}", optimizer.lr_final,
                         optimizer.lr));
  }
}

// Whether a key has a value other than its word for "not given".
bool gives_number(const GivenKeys& given, std::string_view key) {
  const GivenKeys::Entry* entry = given.find(key);
  return entry != nullptr && std::get<int64_t>(entry->value) != 0;
}

void require_number(const GivenKeys& given, std::string_view key, std::string_view unless = "") {
  if (gives_number(given, key)) return;
  Field field = *find_field(key);
  field.allowed = "";  // the word does not help here
  given.fail(key, fmt::format("required{}: {}", unless, describe_values(field)));
}

void check_mesh(const GivenKeys& given, const Recipe& recipe) {
  if (recipe.parallel.data > recipe.train.batch) {
    conflict(
        given, "parallel.data", "train.batch",
        fmt::format("a step has only {} sequences (train.batch): use at most that many data ranks",
                    recipe.train.batch));
  }
}

}  // namespace

void check_required(const GivenKeys& given) {
  const GivenKeys::Entry* init = given.find("run.init_from");
  const bool has_shape = init != nullptr && !std::get<std::string>(init->value).empty();
  if (!has_shape) {
    require_number(given, "model.layers", " (unless run.init_from is given)");
    require_number(given, "model.width", " (unless run.init_from is given)");
  }
  require_number(given, "train.context");
  require_number(given, "train.batch");
  if (!gives_number(given, "train.steps") && !gives_number(given, "train.tokens")) {
    given.fail("train.steps", "required, or train.tokens: an integer >= 1");
  }
}

void settle_steps(const GivenKeys& given, Recipe& recipe) {
  TrainConfig& train = recipe.train;
  if (train.tokens == 0) return;
  if (train.steps != 0) {
    given.fail("train.tokens", "conflicts with train.steps: give exactly one of them");
  }
  // Without batch and context (a source that is not trained) there is nothing to count.
  if (train.batch == 0 || train.context == 0) return;
  train.steps = (train.tokens - 1) / (train.batch * train.context) + 1;
}

void check_recipe(const GivenKeys& given, const Recipe& recipe, RecipeUse use) {
  check_features(given);
  check_model(given, recipe.model);
  check_data(given, recipe.data);
  check_train(given, recipe.train);
  check_sequence(given, recipe);
  check_optimizer(given, recipe.optimizer);
  if (use == RecipeUse::kTrain) check_mesh(given, recipe);
}

}  // namespace rwkv
