#include "launcher/source.h"

#include <algorithm>
#include <filesystem>

#include "core/config/load.h"
#include "core/data/tokenizer.h"
#include "core/io/checkpoint.h"
#include "core/io/weight_file.h"
#include "core/plan/param_table.h"

namespace rwkv {

namespace {

// What is read of a source. The newest checkpoint of a run that is going on may be removed while it
// is read: then there is a newer one.
template <class Read>
auto while_it_is_there(const std::string& source, const Read& read) {
  constexpr int kMostTimes = 10;
  for (int time = 1;; ++time) {
    const bool run = std::filesystem::is_directory(source) && !is_checkpoint(source);
    const std::string newest = run ? latest_checkpoint(source) : "";
    try {
      return read();
    } catch (const std::exception&) {
      if (time == kMostTimes || newest.empty() || std::filesystem::exists(newest)) throw;
    }
  }
}

Recipe recipe_of(const std::string& source, const std::vector<std::string>& overrides) {
  const WeightFile weights(source);
  std::string text;
  if (!weights.checkpoint().empty()) text = read_checkpoint_info(weights.checkpoint()).recipe;
  return parse_recipe(text, source + (text.empty() ? "" : "/config.yaml"), overrides,
                      RecipeUse::kSource);
}

}  // namespace

Recipe source_recipe(const std::string& source, const std::vector<std::string>& overrides) {
  Recipe recipe = while_it_is_there(source, [&] { return recipe_of(source, overrides); });
  // How the run was spread over its ranks says nothing about these, and the weights know their
  // heads.
  const auto given = [&](std::string_view key) {
    return std::ranges::any_of(overrides, [&](const std::string& o) { return o.starts_with(key); });
  };
  if (!given("model.head_size=")) recipe.model.head_size = 0;
  if (!given("parallel.data=")) recipe.parallel.data = 0;
  if (!given("parallel.sequence=")) recipe.parallel.sequence = 0;
  return recipe;
}

LoadedSource load_source(const std::string& source, const Recipe& recipe, const Seat& seat) {
  LoadedSource loaded{recipe, choose_machine(recipe, seat), nullptr, nullptr};
  const int64_t vocab = make_tokenizer(loaded.recipe.data.tokenizer)->vocab();
  while_it_is_there(source, [&] {
    const WeightFile weights(source);
    loaded.model = std::make_unique<Model>(resolve_model(weights.model(recipe.model), vocab));
    require_kernels(*loaded.machine.ops, loaded.model->config());
    loaded.store = std::make_unique<ParamStore>(loaded.model->params(), loaded.machine.precision,
                                                false, false, Part{}, *loaded.machine.ops->memory);
    weights.load(*loaded.store);
  });
  loaded.store->refresh(*loaded.machine.ops, loaded.pass().stream);
  return loaded;
}

void require_same_weights(Communicator& ranks, const LoadedSource& loaded,
                          const std::string& source) {
  require_same(ranks, loaded.store->hash(), source + ": ranks have read different weights");
}

}  // namespace rwkv
