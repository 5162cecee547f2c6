// rwkv-dist generate SOURCE --prompt TEXT | --prompt-file F
#include <fmt/format.h>

#include <optional>

#include "core/base/posix_file.h"
#include "core/config/numbers.h"
#include "core/train/text_generator.h"
#include "launcher/command.h"
#include "launcher/source.h"
#include "parallel/agree.h"

namespace rwkv {
namespace {

struct GenerateArguments {
  std::string source, prompt, prompt_file;
  std::vector<std::string> overrides;
  SamplingOptions sampling;
  bool no_bos = false;
};

// On the ranks that work, on rank 0 of which the text is. Collective over `workers`.
std::string generate_on(const GenerateArguments& arguments, const Recipe& recipe,
                        const std::string& prompt, const Seat& seat, Communicator& workers) {
  LoadedSource loaded;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<int32_t> tokens;
  agree(workers, [&] {
    loaded = load_source(arguments.source, recipe, seat);
    tokenizer = make_tokenizer(recipe.data.tokenizer);
    tokens = encode_prompt(*tokenizer, prompt, !arguments.no_bos, loaded.model->config().vocab);
  });
  settle_alike(workers, loaded.machine);
  require_same_weights(workers, loaded, arguments.source);
  return generate_text(loaded.pass(), *loaded.model, *loaded.store, loaded.machine.precision,
                       *tokenizer, tokens, arguments.sampling, workers);
}

ExitCode generate(Context& context, const GenerateArguments& arguments) {
  Communicator& world = context.world;
  std::string prompt = arguments.prompt;
  on_root(world, [&] {
    if (!arguments.prompt_file.empty()) prompt = read_file(arguments.prompt_file);
  });
  prompt = world.broadcast(prompt, 0);
  Recipe recipe;
  agree(world, [&] { recipe = source_recipe(arguments.source, arguments.overrides); });
  std::string text;
  on_seats(world, recipe, [&](Communicator& workers, const Seat& seat) {
    workers.limit_waits(recipe.parallel.timeout);
    text = generate_on(arguments, recipe, prompt, seat, workers);
    return int64_t{0};
  });
  if (context.root()) {  // of any bytes, zeros too
    const std::string all = prompt + text + "\n";
    std::fwrite(all.data(), 1, all.size(), stdout);
  }
  return ExitCode::kDone;
}

}  // namespace

namespace {

// As CLI::Range, which lets NaN pass.
CLI::Validator range(double low, double high) {
  return CLI::Validator(
      [low, high](const std::string& text) {
        const std::optional<double> value = parse_real(text);
        return value && *value >= low && *value <= high
                   ? std::string()
                   : fmt::format("a number from {:g} to {:g} is wanted, not {}", low, high, text);
      },
      "");
}

}  // namespace

void add_generate(CLI::App& app, CommandAction& chosen) {
  auto arguments = std::make_shared<GenerateArguments>();
  SamplingOptions& sampling = arguments->sampling;
  CLI::App* command = app.add_subcommand("generate", "continue a prompt");
  command->add_option("SOURCE", arguments->source, "run folder, checkpoint or .pth")->required();
  command->add_option("KEY=VALUE", arguments->overrides, "keys that replace the recipe's");
  auto* text = command->add_option("--prompt", arguments->prompt, "the text to continue");
  command->add_option("--prompt-file", arguments->prompt_file, "a file with it")->excludes(text);
  command->add_option("--tokens", sampling.tokens, "tokens to make [256]")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  command->add_option("--temperature", sampling.temperature, "0: the most likely token [1]")
      ->check(range(0, 100));
  command->add_option("--top-p", sampling.top_p, "keep the likeliest tokens up to this sum [1]")
      ->check(range(0, 1));
  command->add_option("--seed", sampling.seed, "the same seed gives the same text [1]")
      ->check(CLI::Validator(
          [](const std::string& given) {
            return parse_unsigned(given) ? ""
                                         : "an integer from 0 to 18446744073709551615 is wanted";
          },
          ""));
  command->add_flag("--no-bos", arguments->no_bos, "do not begin with token 0");
  command->callback([arguments, &chosen] {
    chosen = [arguments](Context& context) { return generate(context, *arguments); };
  });
}

}  // namespace rwkv
