#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "core/base/error.h"
#include "core/config/load.h"
#include "core/train/console.h"
#include "core/train/display_text.h"
#include "core/train/plot.h"
#include "core/train/report.h"

namespace rwkv {
namespace {

using Json = nlohmann::ordered_json;
using Facts = std::vector<std::pair<std::string, std::string>>;

constexpr double kGap = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kNoisy = 100;  // rows from which a curve is also shown smoothed
constexpr int kColours = 8;     // of the style sheet

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1d2430; --dim: #667080;
  --rule: #e3e7ec; --c0: #2563c9; --c1: #d1570b; --c2: #13805a; --c3: #b0307f; --c4: #8a6500;
  --c5: #0b7f9e; --c6: #6a48c4; --c7: #b3282d; }
@media (prefers-color-scheme: dark) { :root { --page: #12151a; --card: #1b2027; --ink: #e6e9ee;
  --dim: #98a2b1; --rule: #2e353f; --c0: #6ea3ff; --c1: #ff9a54; --c2: #4fcb9b; --c3: #f083c1;
  --c4: #e0b94a; --c5: #55c5e4; --c6: #ad93ff; --c7: #ff7f80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 6px; }
p.sub { color: var(--dim); margin: 4px 0 20px; }
.tiles, .plots { display: grid; gap: 14px; margin-bottom: 14px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 16px; margin: 0; }
.tile b { display: block; font-size: 24px; font-weight: 600; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tile span, .tile small { color: var(--dim); font-size: 13px; }
.wide { grid-column: 1 / -1; overflow-x: auto; } .wide svg { min-width: 640px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 5px 0;
  border-top: 1px solid var(--rule); overflow-wrap: anywhere; }
tr:first-child th, tr:first-child td { border-top: 0; }
th { width: 200px; padding-right: 16px; font-weight: 400; color: var(--dim); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--dim); font-size: 11.5px; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); } .axis, .tick { stroke: var(--dim); }
.line, .faint { fill: none; stroke: currentColor; stroke-linejoin: round; }
.line { stroke-width: 1.8; } .faint { stroke-width: 1; opacity: 0.35; }
.dot { fill: currentColor; stroke: var(--card); }
.level { stroke: var(--ink); stroke-dasharray: 6 4; opacity: 0.75; }
svg .level-name { fill: var(--ink); paint-order: stroke; stroke: var(--card); stroke-width: 3px; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.c6 { color: var(--c6); } .c7 { color: var(--c7); }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 16px; align-items: baseline; }
figcaption h2 { margin-right: auto; }
.key { font-size: 13px; } .key i { color: var(--dim); font-style: normal; }
details.card { margin-top: 14px; } summary { cursor: pointer; font-weight: 600; }
pre { margin: 12px 0 0; overflow-x: auto;
  font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
@media print { :root { --page: #fff; } .card { break-inside: avoid; } }
)css";

// What the page knows beside the rows themselves.
struct ReportedRun {
  const RunFiles& files;
  Json header;
  std::optional<Recipe> recipe;
  std::optional<double> floor;
  std::vector<std::string> skills;  // in the order of their first appearance
};

std::optional<Recipe> recipe_of(const std::string& text) {
  try {
    return parse_recipe(text, "config.yaml", {}, RecipeUse::kSource);
  } catch (const Error&) {
    // A folder of another version still gets its report; the recipe's text is shown as it is.
    return std::nullopt;
  }
}

// The header's, else that of the last evaluation's sample, else the mean over the batches.
std::optional<double> floor_of(const Json& header, std::span<const StepRow> rows) {
  const auto given = header.find("floor");
  if (given != header.end() && given->is_number()) return given->get<double>();
  double sum = 0, count = 0;
  std::optional<double> evaluated;
  for (const StepRow& row : rows) {
    if (row.eval_floor && std::isfinite(*row.eval_floor)) evaluated = row.eval_floor;
    if (!row.floor || !std::isfinite(*row.floor)) continue;
    sum += *row.floor;
    ++count;
  }
  if (evaluated) return evaluated;
  return count > 0 ? std::optional(sum / count) : std::nullopt;
}

ReportedRun gather(const RunFiles& files) {
  ReportedRun run{
      files, Json::parse(files.header, nullptr, false), recipe_of(files.recipe), {}, {}};
  if (!run.header.is_object()) run.header = Json::object();
  run.floor = floor_of(run.header, files.rows);
  for (const StepRow& row : files.rows) {
    for (const auto& [name, accuracy] : row.skills) {
      if (std::find(run.skills.begin(), run.skills.end(), name) == run.skills.end()) {
        run.skills.push_back(name);
      }
    }
  }
  return run;
}

double median(std::vector<double> values) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return kGap;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double tokens_per_s(std::span<const StepRow> rows) {
  return median(column(rows, [](const StepRow& row) { return row.tokens_per_s; }));
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string header_or(const ReportedRun& run, const char* key, const std::string& otherwise) {
  const auto given = run.header.find(key);
  return given != run.header.end() && given->is_string() ? given->get<std::string>() : otherwise;
}

std::string model_text(const ReportedRun& run) {
  if (!run.recipe) return "";
  const ModelConfig& m = run.recipe->model;
  std::string blocks;
  for (const std::string& block : m.blocks) blocks += (blocks.empty() ? "" : ", ") + block;
  return fmt::format("{} · {} layers × width {} · heads of {} · vocabulary {} · {}", blocks,
                     m.layers, m.width, m.head_size, m.vocab, run.recipe->precision);
}

std::string data_text(const ReportedRun& run) {
  if (!run.recipe) return "";
  const DataConfig& d = run.recipe->data;
  const TrainConfig& t = run.recipe->train;
  return fmt::format("{}{} · {} · {} sequences × {} tokens a step", d.source,
                     d.path.empty() ? "" : " " + d.path, d.tokenizer, t.batch, t.context);
}

std::string steps_count(int64_t steps) {
  return fmt::format("{} step{}", steps, steps == 1 ? "" : "s");
}

std::string steps_text(const ReportedRun& run) {
  const int64_t done = run.files.rows.empty() ? 0 : run.files.rows.back().step;
  if (!run.recipe || run.recipe->train.steps == 0) return fmt::format("{}", done);
  return fmt::format("{} of {}", done, run.recipe->train.steps);
}

std::string lost_text(std::span<const StepRow> rows) {
  int64_t count = 0, first = 0;
  for (const StepRow& row : rows) {
    if (std::isfinite(row.loss)) continue;
    if (count++ == 0) first = row.step;
  }
  return count == 0 ? "" : fmt::format("{}, the first of them {}", steps_count(count), first);
}

std::string best_evaluation(std::span<const StepRow> rows) {
  const StepRow* best = nullptr;
  for (const StepRow& row : rows) {
    if (!row.eval_loss || !std::isfinite(*row.eval_loss)) continue;
    if (best == nullptr || *row.eval_loss < *best->eval_loss) best = &row;
  }
  return best == nullptr ? "" : fmt::format("{:.4f} at step {}", *best->eval_loss, best->step);
}

Facts facts_of(const ReportedRun& run) {
  const std::vector<StepRow>& rows = run.files.rows;
  Facts facts{{"model", header_or(run, "model", model_text(run))},
              {"data", header_or(run, "data", data_text(run))},
              {"steps", steps_text(run)}};
  if (!rows.empty()) {
    facts.emplace_back("tokens", fmt::format("{}", rows.back().tokens));
    facts.emplace_back("final loss", fmt::format("{:.4f}", rows.back().loss));
  }
  if (run.floor) facts.emplace_back("entropy floor", fmt::format("{:.4f}", *run.floor));
  facts.emplace_back("lowest evaluation loss", best_evaluation(rows));
  facts.emplace_back("loss not finite", lost_text(rows));
  for (const auto& [key, value] : run.header.items()) {
    if (value.is_structured() || key == "model" || key == "data" || key == "floor") continue;
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', ' ');
    facts.emplace_back(name, text_of(value));
  }
  std::erase_if(facts, [](const auto& fact) { return fact.second.empty(); });
  return facts;
}

std::string facts_table(const Facts& facts) {
  std::string out = "<section class=\"card\"><table>\n";
  for (const auto& [name, value] : facts) {
    out += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape_markup(name),
                       escape_markup(value));
  }
  return out + "</table></section>\n";
}

std::string tile(std::string_view name, std::string_view value, std::string_view detail) {
  return fmt::format("<div class=\"card tile\"><span>{}</span><b>{}</b><small>{}</small></div>\n",
                     escape_markup(name), escape_markup(value), escape_markup(detail));
}

std::string tiles(const ReportedRun& run) {
  const std::vector<StepRow>& rows = run.files.rows;
  if (rows.empty()) return "";
  const StepRow& last = rows.back();
  double seconds = 0;
  for (const StepRow& row : rows) seconds += std::isfinite(row.seconds) ? row.seconds : 0;
  std::string out = "<div class=\"tiles\">\n";
  out += tile("final loss", fmt::format("{:.4f}", last.loss),
              run.floor ? fmt::format("entropy floor {:.4f}", *run.floor) : "nats a token");
  if (last.eval_loss) {
    out += tile("evaluation loss", fmt::format("{:.4f}", *last.eval_loss), "at the last step");
  }
  out += tile("tokens", human_count(static_cast<double>(last.tokens)),
              fmt::format("in {}", steps_count(last.step)));
  out += tile("tokens a second", human_count(tokens_per_s(rows)), "median, whole job");
  out += tile("training time", human_time(seconds), "sum over the steps");
  return out + "</div>\n";
}

PlotSeries series(const ReportedRun& run, std::string name, int colour, auto&& value_of) {
  PlotSeries out{std::move(name), colour, PlotSeries::Mark::kLine, {}};
  out.points.reserve(run.files.rows.size());
  for (const StepRow& row : run.files.rows) {
    out.points.push_back({static_cast<double>(row.step), value_of(row)});
  }
  return out;
}

// Mean of the finite values around each point; geometric for a logarithmic plot, where one outlier
// would lift a whole stretch. The window shrinks towards the start, where a loss falls fastest, so
// that the curve is not late there.
PlotSeries smoothed(const PlotSeries& raw, bool geometric) {
  const size_t n = raw.points.size();
  const auto scaled = [&](double y) { return geometric ? std::log(y) : y; };
  std::vector<double> sum(n + 1, 0), count(n + 1, 0);
  for (size_t i = 0; i < n; ++i) {
    const double y = scaled(raw.points[i].y);
    sum[i + 1] = sum[i] + (std::isfinite(y) ? y : 0);
    count[i + 1] = count[i] + (std::isfinite(y) ? 1 : 0);
  }
  PlotSeries out = raw;
  for (size_t i = 0; i < n; ++i) {
    if (!std::isfinite(scaled(raw.points[i].y))) continue;
    const size_t half = std::min(i, n / 60);
    const size_t begin = i - half, end = std::min(i + half + 1, n);
    const double mean = (sum[end] - sum[begin]) / (count[end] - count[begin]);
    out.points[i].y = geometric ? std::exp(mean) : mean;
  }
  return out;
}

// The series as it is; a long one faint, with its mean drawn over it.
void add_noisy(Plot& plot, PlotSeries raw) {
  if (raw.points.size() < kNoisy) {
    plot.series.push_back(std::move(raw));
    return;
  }
  PlotSeries mean = smoothed(raw, plot.log_y);
  raw.mark = PlotSeries::Mark::kFaint;
  plot.series.push_back(std::move(raw));
  plot.series.push_back(std::move(mean));
}

std::string legend(const Plot& plot) {
  std::string out;
  for (const PlotSeries& s : plot.series) {
    if (s.mark == PlotSeries::Mark::kFaint || s.name.empty()) continue;
    out += fmt::format("<span class=\"key\"><span class=\"c{}\">{}</span> {}</span>", s.colour,
                       s.mark == PlotSeries::Mark::kDots ? "●" : "━", escape_markup(s.name));
  }
  if (plot.level) {
    out += fmt::format("<span class=\"key\">╌╌ {}</span>", escape_markup(plot.level_name));
  }
  return out;
}

std::string figure(const Plot& plot, bool wide, std::string_view remark) {
  return fmt::format(
      "<figure class=\"card{}\"><figcaption><h2>{}</h2>{}"
      "<span class=\"key\"><i>{}</i></span></figcaption>\n{}</figure>\n",
      wide ? " wide" : "", escape_markup(plot.title), legend(plot), escape_markup(remark),
      plot_svg(plot));
}

std::string loss_figure(const ReportedRun& run) {
  Plot plot{.title = "Loss", .level = run.floor, .level_name = "entropy floor", .log_y = true};
  plot.width = 1080;
  plot.height = 320;
  add_noisy(plot, series(run, "training", 0, [](const StepRow& row) { return row.loss; }));
  PlotSeries eval =
      series(run, "evaluation", 1, [](const StepRow& row) { return row.eval_loss.value_or(kGap); });
  std::erase_if(eval.points, [](const PlotPoint& p) { return !std::isfinite(p.y); });
  eval.mark = PlotSeries::Mark::kDots;
  if (!eval.points.empty()) plot.series.push_back(std::move(eval));
  return figure(plot, true, "nats a token, logarithmic");
}

std::string skills_figure(const ReportedRun& run) {
  Plot plot{.title = "Skills", .y_low = 0.0, .y_high = 1.02};
  plot.width = 1080;
  int colour = 0;
  for (const std::string& name : run.skills) {
    PlotSeries shares = series(run, name, colour++ % kColours, [&](const StepRow& row) {
      const auto found = std::find_if(row.skills.begin(), row.skills.end(),
                                      [&](const auto& skill) { return skill.first == name; });
      return found == row.skills.end() ? kGap : found->second;
    });
    // A batch without a question of this skill is no gap in what the model can do.
    std::erase_if(shares.points, [](const PlotPoint& p) { return !std::isfinite(p.y); });
    add_noisy(plot, std::move(shares));
  }
  return figure(plot, true, "share of questions answered");
}

std::string figures(const ReportedRun& run) {
  if (run.files.rows.empty()) return "<p class=\"card\">No step has been recorded yet.</p>\n";
  std::string out = "<div class=\"plots\">\n" + loss_figure(run);
  if (!run.skills.empty()) out += skills_figure(run);
  Plot norm{.title = "Gradient norm", .log_y = true};
  add_noisy(norm, series(run, "", 2, [](const StepRow& row) { return row.grad_norm; }));
  Plot rate{.title = "Learning rate", .y_low = 0.0};
  rate.series = {series(run, "", 6, [](const StepRow& row) { return row.lr; })};
  Plot speed{.title = "Tokens a second", .y_low = 0.0};
  add_noisy(speed, series(run, "", 5, [](const StepRow& row) { return row.tokens_per_s; }));
  out += figure(norm, false, "before clipping, logarithmic");
  out += figure(rate, false, "") + figure(speed, false, "whole job");
  return out + "</div>\n";
}

}  // namespace

std::string report_page(const RunFiles& files) {
  const ReportedRun run = gather(files);
  const std::string title = escape_markup(files.name);
  return fmt::format(
             "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n"
             "<meta charset=\"utf-8\"/>\n"
             "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
             "<meta http-equiv=\"Content-Security-Policy\" "
             "content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
             "<title>{} · rwkv-dist</title>\n<style>{}</style>\n</head>\n<body><main>\n"
             "<h1>{}</h1><p class=\"sub\">a run of rwkv-dist</p>\n",
             title, kStyle, title) +
         tiles(run) + figures(run) + facts_table(facts_of(run)) +
         "<details class=\"card\"><summary>Recipe, resolved</summary><pre>" +
         escape_markup(files.recipe) + "</pre></details>\n</main></body>\n</html>\n";
}

}  // namespace rwkv
