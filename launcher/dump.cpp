#include "launcher/dump.h"

#include <filesystem>

#include "core/base/posix_file.h"

namespace rwkv {
namespace fs = std::filesystem;
namespace {

std::string state_name(size_t layer, const Carry& carry) {
  return "state/" + std::to_string(layer) + "/" + carry.name;
}

// Tokens [begin, end) of sample b of (B, n, ...), as (1, end - begin, ...).
ConstTensor tokens_of(const ConstTensor& t, int64_t b, int64_t begin, int64_t end) {
  const int64_t n = t.shape[1], each = t.elements() / (t.shape[0] * n);
  Shape shape = t.shape;
  shape.dim[0] = 1;
  shape.dim[1] = end - begin;
  return {t.data + (b * n + begin) * each * bytes_of(t.dtype), t.dtype, shape};
}

}  // namespace

Dump::Dump(const std::string& path, const Model& model, const SequenceRunner& runner,
           int64_t samples, bool logits, const Memory& memory)
    : path_(path), temporary_(path + ".tmp"), model_(model), runner_(runner), memory_(memory) {
  const SequencePlan& plan = runner.plan();
  const DType acc = plan.model.precision.accumulate;
  const int64_t vocab = model.config().vocab;
  fs::remove(temporary_);
  file_ = Hdf5File::create(temporary_);
  file_->create_dataset("loss", acc, {samples, plan.model.tokens});
  if (logits) {
    const Shape shape{plan.model.batch, plan.segments.most_tokens(), vocab};
    buffer_ = Buffer(shape.elements() * bytes_of(acc), memory);
    logits_ = {buffer_.data(), acc, shape};
    file_->create_dataset("logits", DType::kF32, {samples, plan.model.tokens, vocab});
  }
  for (size_t l = 0; l < model.layers(); ++l) {
    for (const Carry& carry : model.carries(l)) {
      file_->create_dataset(state_name(l, carry), acc, carry.of_batch(samples));
    }
  }
}

Dump::~Dump() {
  if (committed_) return;
  file_.reset();
  std::error_code ignored;
  fs::remove(temporary_, ignored);
}

// Promised in float32.
void Dump::write_logits(int64_t sample, int64_t token, const ConstTensor& rows) {
  if (rows.dtype == DType::kF32) return file_->write_block("logits", sample, token, rows);
  std::vector<float> narrow(static_cast<size_t>(rows.elements()));
  for (size_t i = 0; i < narrow.size(); ++i) narrow[i] = static_cast<float>(rows.as<double>()[i]);
  file_->write_block("logits", sample, token, view_of(narrow.data(), rows.shape));
}

void Dump::add(int64_t first, int64_t count, const SequenceRunner::Result& result) {
  const Segment& segment = result.segment;
  const int64_t begin = segment.begin - segment.run_begin, end = segment.tokens();
  for (int64_t b = 0; b < count; ++b) {
    file_->write_block("loss", first + b, segment.begin, tokens_of(result.loss, b, begin, end));
    if (result.logits.empty()) continue;
    write_logits(first + b, segment.begin, tokens_of(result.logits, b, begin, end));
  }
  if (!segment.last) return;
  for (size_t l = 0; l < model_.layers(); ++l) {
    const std::vector<Carry> carries = model_.carries(l);
    for (size_t i = 0; i < carries.size(); ++i) {
      const ConstTensor rows = runner_.leaving()[l][i].rows(0, count);
      file_->write_rows(state_name(l, carries[i]), first, on_host(memory_, {}, rows, room_));
    }
  }
}

void Dump::commit() {
  file_->close();
  fs::rename(temporary_, path_);
  const fs::path folder = fs::path(path_).parent_path();
  fsync_path(folder.empty() ? "." : folder.string());
  committed_ = true;
}

}  // namespace rwkv
