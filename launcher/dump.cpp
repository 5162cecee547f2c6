#include "launcher/dump.h"

#include <filesystem>

#include "core/base/posix_file.h"

namespace rwkv {
namespace fs = std::filesystem;
namespace {

Shape with_samples(int64_t samples, const Shape& rest) {
  Shape shape = rest;
  shape.dim[0] = samples;
  return shape;
}

}  // namespace

Dump::Dump(const std::string& path, const Model& model, Precision precision, const Workspace& ws,
           int64_t samples, bool logits)
    : path_(path), temporary_(path + ".tmp"), model_(model), ws_(ws) {
  fs::remove(temporary_);
  file_ = Hdf5File::create(temporary_);
  const DType acc = precision.accumulate;
  file_->create_dataset("loss", acc, with_samples(samples, ws.loss.shape));
  if (logits) {
    const Shape shape{ws.loss.shape[0], ws.loss.shape[1], model.config().vocab};
    buffer_ = Buffer(shape.elements() * bytes_of(acc));
    logits_ = {buffer_.data(), acc, shape};
    file_->create_dataset("logits", DType::kF32, with_samples(samples, shape));
  }
  for (size_t l = 0; l < model.layers(); ++l) {
    const std::vector<Carry> carries = model.carries(l);
    for (size_t i = 0; i < carries.size(); ++i) {
      file_->create_dataset("state/" + std::to_string(l) + "/" + carries[i].name, acc,
                            with_samples(samples, ws.leaving[l][i].shape));
    }
  }
}

Dump::~Dump() {
  if (committed_) return;
  file_.reset();
  std::error_code ignored;
  fs::remove(temporary_, ignored);
}

void Dump::write(const std::string& name, int64_t first, const Tensor& rows) {
  if (rows.dtype == DType::kF64 && name == "logits") {  // promised in float32
    std::vector<float> narrow(static_cast<size_t>(rows.elements()));
    for (size_t i = 0; i < narrow.size(); ++i) narrow[i] = static_cast<float>(rows.as<double>()[i]);
    file_->write_rows(name, first, view_of(narrow.data(), rows.shape));
    return;
  }
  file_->write_rows(name, first, rows);
}

void Dump::add(int64_t first, int64_t count) {
  write("loss", first, ws_.loss.rows(0, count));
  if (!logits_.empty()) write("logits", first, logits_.rows(0, count));
  for (size_t l = 0; l < model_.layers(); ++l) {
    const std::vector<Carry> carries = model_.carries(l);
    for (size_t i = 0; i < carries.size(); ++i) {
      write("state/" + std::to_string(l) + "/" + carries[i].name, first,
            ws_.leaving[l][i].rows(0, count));
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
