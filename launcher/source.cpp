#include "launcher/source.h"

#include <algorithm>
#include <filesystem>

#include "core/config/load.h"
#include "core/data/tokenizer.h"
#include "core/io/checkpoint.h"
#include "core/io/weight_file.h"
#include "core/plan/param_table.h"

namespace rwkv {

Recipe source_recipe(const std::string& source, const std::vector<std::string>& overrides) {
  const WeightFile weights(source);
  std::string text;
  if (!weights.checkpoint().empty()) text = read_checkpoint_info(weights.checkpoint()).recipe;
  Recipe recipe = parse_recipe(text, source + (text.empty() ? "" : "/config.yaml"), overrides,
                               RecipeUse::kSource);
  // How the run was spread over its ranks says nothing about these.
  const auto given = [&](std::string_view key) {
    return std::ranges::any_of(overrides, [&](const std::string& o) { return o.starts_with(key); });
  };
  if (!given("parallel.data=")) recipe.parallel.data = 0;
  if (!given("parallel.sequence=")) recipe.parallel.sequence = 0;
  return recipe;
}

LoadedSource load_source(const std::string& source, const Recipe& recipe, const Seat& seat) {
  LoadedSource loaded{recipe, choose_machine(recipe, seat), nullptr, nullptr};
  const WeightFile weights(source);
  const int64_t vocab = make_tokenizer(loaded.recipe.data.tokenizer)->vocab();
  loaded.model = std::make_unique<Model>(resolve_model(weights.model(loaded.recipe.model), vocab));
  loaded.store = std::make_unique<ParamStore>(loaded.model->params(), loaded.machine.precision,
                                              false, false, Part{}, *loaded.machine.ops->memory);
  weights.load(*loaded.store);
  loaded.store->refresh(*loaded.machine.ops, loaded.pass().stream);
  return loaded;
}

}  // namespace rwkv
