// metrics.jsonl: what a run measured. The first line is a header, then one row for every step. Each
// line is a JSON object. Numbers read back to the same bits; one that is not finite is written as
// null, and the row's "note" says which it was: {"note": {"loss": "nan"}}.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rwkv {

struct StepRow {
  int64_t step = 0;      // updates done, from 1
  int64_t tokens = 0;    // cumulative, overlap not counted
  double loss = 0;       // nats a token: mean before this update
  double grad_norm = 0;  // before clipping
  double lr = 0;
  double seconds = 0;                // that this step took
  double tokens_per_s = 0;           // whole job
  std::optional<double> floor = {};  // entropy floor of this batch, nats a token
  std::optional<double> eval_loss = {}, eval_floor = {};
  int64_t exchanged = 0;  // bytes that all ranks sent between segments of sequences
  int64_t repeated = 0;   // passes thrown away: a term of an exact sum did not fit, fp16 overflowed
  std::optional<double> scale_min = {}, scale_max = {};     // log2 of the scales of exact sums used
  std::optional<double> loss_scale = {};                    // in fp16
  std::vector<std::pair<std::string, double>> skills = {};  // share of questions answered, by name
};

// One row as it stands in the file, without the newline.
std::string to_json(const StepRow&);

// Rank 0 only. Owns the file until close().
class MetricsWriter {
 public:
  // Creates `path` with the header, or goes on with what stands there: its first header stays, rows
  // after step `keep_rows_up_to_step` and a torn last line are cut (atomically: the file is never
  // half cut). `header_json` is a JSON object: {"run": ..., "machine": ..., "numerics": ...};
  // strings and numbers in it are shown by the report under their names. Throws InputError when a
  // file is there and a line of it is bad, IoError when the system refuses.
  MetricsWriter(const std::string& path, std::string_view header_json,
                int64_t keep_rows_up_to_step);
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;
  ~MetricsWriter();

  // Hands the whole line to the system at once: a killed process leaves at most one torn last line.
  // What a full disk has no room for waits for the next call.
  void append(const StepRow&);
  void flush();  // returns when the rows are on the disk; IoError where they cannot be
  void close();  // flush, and no append() after it; a second close() does nothing

 private:
  void write_out();

  std::string path_, unwritten_;
  int fd_ = -1;
};

// All rows of a file. A torn last line is left out; any other bad line is an InputError `path:line:
// ...`. `header` (may be null) receives the header's text, empty when the file holds none yet.
std::vector<StepRow> read_metrics(const std::string& path, std::string* header);

// One number of each row.
std::vector<double> column(std::span<const StepRow> rows, auto&& value_of) {
  std::vector<double> out;
  out.reserve(rows.size());
  for (const StepRow& row : rows) out.push_back(value_of(row));
  return out;
}

}  // namespace rwkv
