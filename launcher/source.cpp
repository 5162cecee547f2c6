#include "launcher/source.h"

#include <algorithm>
#include <filesystem>

#include "core/config/load.h"
#include "core/data/tokenizer.h"
#include "core/io/checkpoint.h"
#include "core/io/weight_file.h"
#include "core/plan/param_table.h"

namespace rwkv {

LoadedSource load_source(const std::string& source, const std::vector<std::string>& overrides,
                         HostPlace place) {
  LoadedSource loaded;
  const WeightFile weights(source);
  std::string text;
  if (!weights.checkpoint().empty()) text = read_checkpoint_info(weights.checkpoint()).recipe;
  loaded.recipe = parse_recipe(text, source + (text.empty() ? "" : "/config.yaml"), overrides,
                               RecipeUse::kSource);
  // How the run was spread over its ranks says nothing about these.
  const auto given = [&](std::string_view key) {
    return std::ranges::any_of(overrides, [&](const std::string& o) { return o.starts_with(key); });
  };
  if (!given("parallel.data=")) loaded.recipe.parallel.data = 0;
  if (!given("parallel.sequence=")) loaded.recipe.parallel.sequence = 0;
  loaded.machine = choose_machine(loaded.recipe, place);
  const int64_t vocab = make_tokenizer(loaded.recipe.data.tokenizer)->vocab();
  loaded.model = std::make_unique<Model>(resolve_model(weights.model(loaded.recipe.model), vocab));
  loaded.store = std::make_unique<ParamStore>(loaded.model->params(), loaded.machine.precision,
                                              false, false, Part{}, *loaded.machine.ops->memory);
  weights.load(*loaded.store);
  loaded.store->refresh(*loaded.machine.ops, loaded.pass().stream);
  return loaded;
}

}  // namespace rwkv
