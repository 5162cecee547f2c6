#include "core/train/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/posix_file.h"

namespace rwkv {
namespace {

using Json = nlohmann::ordered_json;

// One line, and never a throw: what is not UTF-8 in a name becomes U+FFFD.
std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json number(double value, const std::string& name, Json& note) {
  if (std::isfinite(value)) return value;
  note[name] = std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  return nullptr;
}

// Takes values out of one row, naming the one that is wrong.
class RowReader {
 public:
  RowReader(const Json& row, const std::string& where) : row_(row), where_(where) {}

  int64_t integer(const char* key) const {
    const auto found = row_.find(key);
    if (found == row_.end() || !found->is_number_integer() || found->get<int64_t>() < 0) {
      throw InputError(fmt::format("{}: \"{}\" must be an integer >= 0", where_, key));
    }
    return found->get<int64_t>();
  }

  double real(const char* key) const {
    const auto found = row_.find(key);
    if (found == row_.end()) throw InputError(fmt::format("{}: no \"{}\"", where_, key));
    return value(*found, key);
  }

  std::optional<double> optional_real(const char* key) const {
    if (!row_.contains(key)) return std::nullopt;
    return real(key);
  }

  std::vector<std::pair<std::string, double>> skills() const {
    std::vector<std::pair<std::string, double>> out;
    const auto found = row_.find("skills");
    if (found == row_.end()) return out;
    if (!found->is_object()) {
      throw InputError(fmt::format("{}: \"skills\" must be an object", where_));
    }
    for (const auto& [name, accuracy] : found->items()) {
      out.emplace_back(name, value(accuracy, "skills." + name));
    }
    return out;
  }

 private:
  double value(const Json& json, const std::string& name) const {
    if (json.is_number()) return json.get<double>();
    if (!json.is_null()) {
      throw InputError(fmt::format("{}: \"{}\" must be a number or null", where_, name));
    }
    const auto notes = row_.find("note");
    const bool noted = notes != row_.end() && notes->is_object() && notes->contains(name);
    const Json note = noted ? notes->at(name) : Json();
    if (note == "inf") return std::numeric_limits<double>::infinity();
    if (note == "-inf") return -std::numeric_limits<double>::infinity();
    return std::numeric_limits<double>::quiet_NaN();
  }

  const Json& row_;
  const std::string& where_;
};

Json parse_object(std::string_view line, const std::string& where) {
  Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) throw InputError(where + ": not a line of metrics: a JSON object wanted");
  return json;
}

void check_header(std::string_view line, const std::string& where) {
  if (parse_object(line, where).contains("step")) {
    throw InputError(where + ": a row where the header should be");
  }
}

StepRow parse_row(std::string_view line, const std::string& where) {
  const Json json = parse_object(line, where);
  const RowReader in(json, where);
  return {.step = in.integer("step"),
          .tokens = in.integer("tokens"),
          .loss = in.real("loss"),
          .grad_norm = in.real("grad_norm"),
          .lr = in.real("lr"),
          .seconds = in.real("seconds"),
          .tokens_per_s = in.real("tokens_per_s"),
          .floor = in.optional_real("floor"),
          .eval_loss = in.optional_real("eval_loss"),
          .eval_floor = in.optional_real("eval_floor"),
          .exchanged = json.contains("exchanged") ? in.integer("exchanged") : 0,
          .repeated = json.contains("repeated") ? in.integer("repeated") : 0,
          .scale_min = in.optional_real("scale_min"),
          .scale_max = in.optional_real("scale_max"),
          .loss_scale = in.optional_real("loss_scale"),
          .skills = in.skills()};
}

struct Content {
  std::string_view header;
  std::vector<StepRow> rows;
  std::vector<std::string_view> lines;  // of the rows
};

// Views into `text`, which must outlive them. Lines behind the row of `last_step` are not looked
// at.
Content parse(std::string_view text, const std::string& path,
              int64_t last_step = std::numeric_limits<int64_t>::max()) {
  Content content;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    const bool torn = newline == std::string_view::npos;
    const std::string_view line = text.substr(begin, torn ? newline : newline - begin);
    const std::string where = fmt::format("{}:{}", path, ++number);
    begin = torn ? text.size() : newline + 1;
    try {
      if (number == 1) {
        check_header(line, where);
        content.header = line;
      } else {
        content.rows.push_back(parse_row(line, where));
        content.lines.push_back(line);
        if (content.rows.back().step >= last_step) break;
      }
    } catch (const InputError&) {
      if (!torn) throw;
    }
  }
  return content;
}

std::string cut(const Content& content, int64_t last_step) {
  std::string out = std::string(content.header) + '\n';
  for (size_t i = 0; i < content.rows.size(); ++i) {
    if (content.rows[i].step <= last_step) out.append(content.lines[i]) += '\n';
  }
  return out;
}

// `result` is a return code of the system.
template <class T>
T checked(T result, const char* what, const std::string& path) {
  if (result < 0) throw IoError(fmt::format("{} {}: {}", what, path, std::strerror(errno)));
  return result;
}

}  // namespace

std::string to_json(const StepRow& row) {
  Json note = Json::object();
  Json out = {{"step", row.step}, {"tokens", row.tokens}};
  const auto put = [&](const char* key, double value) { out[key] = number(value, key, note); };
  put("loss", row.loss);
  put("grad_norm", row.grad_norm);
  put("lr", row.lr);
  put("seconds", row.seconds);
  put("tokens_per_s", row.tokens_per_s);
  if (row.floor) put("floor", *row.floor);
  if (row.eval_loss) put("eval_loss", *row.eval_loss);
  if (row.eval_floor) put("eval_floor", *row.eval_floor);
  if (row.exchanged > 0) out["exchanged"] = row.exchanged;
  if (row.repeated > 0) out["repeated"] = row.repeated;
  if (row.scale_min) put("scale_min", *row.scale_min);
  if (row.scale_max) put("scale_max", *row.scale_max);
  if (row.loss_scale) put("loss_scale", *row.loss_scale);
  for (const auto& [name, accuracy] : row.skills) {
    out["skills"][name] = number(accuracy, "skills." + name, note);
  }
  if (!note.empty()) out["note"] = note;
  return dump(out);
}

MetricsWriter::MetricsWriter(const std::string& path, std::string_view header_json,
                             int64_t keep_rows_up_to_step)
    : path_(path) {
  const Json header = Json::parse(header_json, nullptr, false);
  require(header.is_object() && !header.contains("step"), "the header of metrics is an object");
  const std::string old = std::filesystem::exists(path) ? read_file(path) : std::string();
  const Content content = parse(old, path, keep_rows_up_to_step);
  const std::string text =
      content.header.empty() ? dump(header) + '\n' : cut(content, keep_rows_up_to_step);
  if (text != old) replace_file(path, text);
  fd_ = checked(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC), "cannot open", path);
}

MetricsWriter::~MetricsWriter() {
  // Nothing can be done about a failure here; close() is where it is reported.
  if (fd_ >= 0) static_cast<void>(::close(fd_));
}

void MetricsWriter::append(const StepRow& row) {
  require(fd_ >= 0, "metrics are closed");
  unwritten_ += to_json(row) + '\n';
  try {
    write_out();
  } catch (const IoError&) {  // a full disk may have room by the next row; flush() says it if not
  }
}

void MetricsWriter::write_out() {
  while (!unwritten_.empty()) {
    const ssize_t written = ::write(fd_, unwritten_.data(), unwritten_.size());
    if (written < 0 && errno == EINTR) continue;
    unwritten_.erase(0, static_cast<size_t>(checked(written, "cannot write", path_)));
  }
}

void MetricsWriter::flush() {
  require(fd_ >= 0, "metrics are closed");
  write_out();
  checked(::fdatasync(fd_), "cannot flush", path_);
}

void MetricsWriter::close() {
  if (fd_ < 0) return;
  flush();
  const int fd = std::exchange(fd_, -1);
  checked(::close(fd), "cannot close", path_);
}

std::vector<StepRow> read_metrics(const std::string& path, std::string* header) {
  const std::string text = read_file(path);
  Content content = parse(text, path);
  if (header != nullptr) *header = content.header;
  return std::move(content.rows);
}

}  // namespace rwkv
