#include "core/plan/param_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

namespace rwkv {
namespace {

constexpr auto kParams = static_cast<size_t>(Rwkv7Param::kCount);

constexpr std::array<std::string_view, kParams> kNames = {
    "ln0.weight",      "ln0.bias",         "ln1.weight",
    "ln1.bias",        "ln2.weight",       "ln2.bias",
    "att.x_r",         "att.x_w",          "att.x_k",
    "att.x_v",         "att.x_a",          "att.x_g",
    "att.w0",          "att.a0",           "att.v0",
    "att.k_k",         "att.k_a",          "att.r_k",
    "att.w1",          "att.w2",           "att.a1",
    "att.a2",          "att.v1",           "att.v2",
    "att.g1",          "att.g2",           "att.receptance.weight",
    "att.key.weight",  "att.value.weight", "att.output.weight",
    "att.ln_x.weight", "att.ln_x.bias",    "ffn.x_k",
    "ffn.key.weight",  "ffn.value.weight"};

// 32-rounded rank of the low-rank MLPs, half to even as Python rounds.
int64_t official_rank(double factor, int64_t width) {
  const double units = factor * std::sqrt(static_cast<double>(width)) / 32.0;
  return std::max<int64_t>(32, 32 * static_cast<int64_t>(std::nearbyint(units)));
}

// What the initial values of layer l depend on.
struct LayerRatios {
  double rho;    // 0 in the first layer, 1 in the last (a single layer counts as the first)
  double tau;    // 1 in the first layer, towards 0
  double depth;  // (1 + l) / L
};

LayerRatios ratios(const ModelConfig& model, int64_t layer) {
  const auto l = static_cast<double>(layer), count = static_cast<double>(model.layers);
  return {model.layers > 1 ? l / (count - 1) : 0.0, 1.0 - l / count, (1.0 + l) / count};
}

std::vector<double> per_channel(int64_t width, const std::function<double(int64_t)>& value) {
  std::vector<double> out(static_cast<size_t>(width));
  for (int64_t n = 0; n < width; ++n) out[static_cast<size_t>(n)] = value(n);
  return out;
}

// -1/2 ... 1/2 over the channels.
double linear(const ModelConfig& model, int64_t n) {
  return model.width > 1 ? static_cast<double>(n) / static_cast<double>(model.width - 1) - 0.5 : 0;
}

// Signed square over the channels of a head. The official formula is written for heads of 64:
// ((n mod N) - (N-1)/2) / ((N-1)/2).
double zigzag(const ModelConfig& model, int64_t n) {
  const double half = static_cast<double>(model.head_size - 1) / 2.0;
  const double s = (static_cast<double>(n % model.head_size) - half) / half;
  return s * std::fabs(s);
}

// 1 - (n / C)^power: how much of the previous token the mixes start with.
std::vector<double> shift_mix(const ModelConfig& model, double power) {
  return per_channel(model.width, [&](int64_t n) {
    return 1.0 - std::pow(static_cast<double>(n) / static_cast<double>(model.width), power);
  });
}

// Builders of one row each.
class Rows {
 public:
  Rows(const ModelConfig& model, int64_t layer) : model_(model), layer_(layer) {}

  ParamSpec base(Rwkv7Param p, Shape shape) const {
    ParamSpec spec;
    spec.name = "blocks." + std::to_string(layer_) + "." + std::string(short_name(p));
    spec.shape = shape;
    spec.block = static_cast<int>(layer_);
    return spec;
  }
  void constant(Rwkv7Param p, Shape shape, double value) {
    ParamSpec spec = base(p, shape);
    spec.value = value;
    rows_.push_back(std::move(spec));
  }
  void channels(Rwkv7Param p, std::vector<double> values, double lr_scale = 1) {
    ParamSpec spec = base(p, {1, 1, model_.width});
    spec.init = Init::kPerChannel;
    spec.channels = std::move(values);
    spec.lr_scale = lr_scale;
    rows_.push_back(std::move(spec));
  }
  // Low-rank matrices are [in, out], trained without decay: gain 0 for the first of a pair.
  void low_rank(Rwkv7Param p, int64_t in, int64_t out, double gain) {
    ParamSpec spec = base(p, {in, out});
    spec.init = gain == 0 ? Init::kConstant : Init::kOrthogonal;
    spec.value = gain;
    spec.product = true;
    spec.atom = Atom::kMatrix;
    rows_.push_back(std::move(spec));
  }
  // Linear weights are [out, in] and the only ones with weight decay.
  void linear(Rwkv7Param p, int64_t out, int64_t in, double gain) {
    ParamSpec spec = base(p, {out, in});
    spec.init = gain == 0 ? Init::kConstant : Init::kOrthogonal;
    spec.value = gain;
    spec.product = true;
    spec.decay = true;
    spec.atom = Atom::kMatrix;
    rows_.push_back(std::move(spec));
  }
  std::vector<ParamSpec> take() { return std::move(rows_); }

 private:
  const ModelConfig& model_;
  int64_t layer_;
  std::vector<ParamSpec> rows_;
};

void add_time_mix(Rows& rows, const ModelConfig& model, int64_t layer) {
  using P = Rwkv7Param;
  const int64_t c = model.width;
  const LayerRatios ratio = ratios(model, layer);
  rows.channels(P::kXr, shift_mix(model, 0.2 * ratio.tau));
  rows.channels(P::kXw, shift_mix(model, 0.9 * ratio.tau));
  rows.channels(P::kXk, shift_mix(model, 0.7 * ratio.tau));
  rows.channels(P::kXv, shift_mix(model, 0.7 * ratio.tau));
  rows.channels(P::kXa, shift_mix(model, 0.9 * ratio.tau));
  rows.channels(P::kXg, shift_mix(model, 0.2 * ratio.tau));
  rows.channels(P::kW0,
                per_channel(c,
                            [&](int64_t n) {
                              const double x =
                                  c > 1 ? static_cast<double>(n) / static_cast<double>(c - 1) : 0;
                              return -6.0 + 6.0 * std::pow(x, 1.0 + std::pow(ratio.rho, 0.3)) +
                                     0.5 + 2.5 * zigzag(model, n);
                            }),
                2.0);
  rows.channels(P::kA0, per_channel(c, [&](int64_t n) {
                  return -0.19 + 0.3 * zigzag(model, n) + 0.4 * linear(model, n);
                }));
  if (layer > 0) {
    rows.channels(P::kV0, per_channel(c, [&](int64_t n) { return 0.73 - 0.4 * linear(model, n); }));
  }
  rows.channels(P::kKk, per_channel(c, [&](int64_t n) { return 0.71 - 0.1 * linear(model, n); }));
  rows.channels(P::kKa, std::vector<double>(static_cast<size_t>(c), 1.02));
  rows.constant(P::kRk, {c / model.head_size, model.head_size}, -0.04);
  rows.low_rank(P::kW1, c, model.lora_rank.decay, 0);
  rows.low_rank(P::kW2, model.lora_rank.decay, c, 0.1);
  rows.low_rank(P::kA1, c, model.lora_rank.iclr, 0);
  rows.low_rank(P::kA2, model.lora_rank.iclr, c, 0.1);
  if (layer > 0) {
    rows.low_rank(P::kV1, c, model.lora_rank.value, 0);
    rows.low_rank(P::kV2, model.lora_rank.value, c, 0.1);
  }
  rows.low_rank(P::kG1, c, model.lora_rank.gate, 0);
  rows.low_rank(P::kG2, model.lora_rank.gate, c, 0.1);
  rows.linear(P::kReceptance, c, c, 1.0);
  rows.linear(P::kKey, c, c, 0.1);
  rows.linear(P::kValue, c, c, 1.0);
  rows.linear(P::kOutput, c, c, 0);
  rows.constant(P::kLnXWeight, {c}, std::pow(ratio.depth, 0.7));
  rows.constant(P::kLnXBias, {c}, 0);
}

ParamSpec outside(std::string name, Shape shape, double value) {
  ParamSpec spec;
  spec.name = std::move(name);
  spec.shape = shape;
  spec.value = value;
  return spec;
}

}  // namespace

std::string_view short_name(Rwkv7Param p) { return kNames[static_cast<size_t>(p)]; }

ModelConfig resolve_model(ModelConfig model, int64_t tokenizer_vocab) {
  if (model.ffn_width == 0) model.ffn_width = 4 * model.width;
  if (model.vocab == 0) model.vocab = tokenizer_vocab;
  LoraRanks& rank = model.lora_rank;
  if (rank.decay == 0) rank.decay = official_rank(2.5, model.width);
  if (rank.iclr == 0) rank.iclr = official_rank(2.5, model.width);
  if (rank.value == 0) rank.value = official_rank(1.7, model.width);
  if (rank.gate == 0) rank.gate = official_rank(5.0, model.width);
  return model;
}

std::vector<ParamSpec> rwkv7_params(const ModelConfig& model, int64_t layer) {
  using P = Rwkv7Param;
  const int64_t c = model.width;
  Rows rows(model, layer);
  if (layer == 0) {
    rows.constant(P::kLn0Weight, {c}, 1);
    rows.constant(P::kLn0Bias, {c}, 0);
  }
  rows.constant(P::kLn1Weight, {c}, 1);
  rows.constant(P::kLn1Bias, {c}, 0);
  rows.constant(P::kLn2Weight, {c}, 1);
  rows.constant(P::kLn2Bias, {c}, 0);
  add_time_mix(rows, model, layer);
  rows.channels(P::kFfnXk, shift_mix(model, std::pow(ratios(model, layer).tau, 4.0)));
  rows.linear(P::kFfnKey, model.ffn_width, c, 1.0);
  rows.linear(P::kFfnValue, c, model.ffn_width, 0);
  return rows.take();
}

std::vector<ParamSpec> param_table(const ModelConfig& model) {
  std::vector<ParamSpec> table;
  ParamSpec emb = outside("emb.weight", {model.vocab, model.width}, 1e-4);
  emb.init = Init::kUniform;
  emb.decay = true;
  emb.atom = Atom::kRow;
  table.push_back(std::move(emb));
  for (int64_t layer = 0; layer < model.layers; ++layer) {
    for (ParamSpec& spec : rwkv7_params(model, layer)) table.push_back(std::move(spec));
  }
  table.push_back(outside("ln_out.weight", {model.width}, 1));
  table.push_back(outside("ln_out.bias", {model.width}, 0));
  const auto v = static_cast<double>(model.vocab), c = static_cast<double>(model.width);
  ParamSpec head =
      outside("head.weight", {model.vocab, model.width}, v > c ? 0.5 * std::sqrt(v / c) : 0.5);
  head.init = Init::kOrthogonal;
  head.decay = true;
  head.product = true;
  head.atom = Atom::kMatrix;
  table.push_back(std::move(head));
  return table;
}

std::string describe(const std::vector<ParamSpec>& table) {
  std::string out = fmt::format("{:<34} {:>16} {:>12}  {:<22} {:>5}  {}\n", "parameter", "shape",
                                "elements", "start", "lr", "decay");
  for (const ParamSpec& spec : table) {
    std::string start;
    switch (spec.init) {
      case Init::kConstant:
        start = fmt::format("{:g}", spec.value);
        break;
      case Init::kUniform:
        start = fmt::format("uniform ±{:g}", spec.value);
        break;
      case Init::kOrthogonal:
        start = fmt::format("orthogonal x {:.4g}", spec.value);
        break;
      case Init::kPerChannel:
        start = fmt::format("{:.4g} ... {:.4g}", spec.channels.front(), spec.channels.back());
        break;
    }
    out +=
        fmt::format("{:<34} {:>16} {:>12}  {:<22} {:>4g}x  {}\n", spec.name, to_string(spec.shape),
                    spec.shape.elements(), start, spec.lr_scale, spec.decay ? "yes" : "no");
  }
  return out + fmt::format("{} parameters\n", count_elements(table));
}

double flops_per_token(const ModelConfig& model) {
  double products = 0;
  for (const ParamSpec& spec : param_table(model)) {
    if (spec.product) products += static_cast<double>(spec.shape.elements());
  }
  return 6 * products + 38.0 * static_cast<double>(model.width * model.head_size * model.layers);
}

}  // namespace rwkv
